# Sourced by scripts that set up a machine: require_packages <Debian package>...

# Returns 0 when every package is installed, installing what is missing where that is allowed. Otherwise says
# which command to run, and returns 1.
require_packages() {
  if ! command -v dpkg >/dev/null; then
    echo "This script installs Debian packages. Elsewhere, install what corresponds to: $*" >&2
    return 1
  fi
  local package missing=() as_root=()
  for package; do
    dpkg -s "$package" 2>/dev/null | grep -q '^Status: install ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0

  if [ "$(id -u)" -ne 0 ]; then
    if ! sudo -n true 2>/dev/null; then
      echo "Packages are missing. Run this as root, then start again:" >&2
      echo "  apt-get update && apt-get install -y --no-install-recommends ${missing[*]}" >&2
      return 1
    fi
    as_root=(sudo -n)
  fi
  echo "Installing: ${missing[*]}"
  "${as_root[@]}" apt-get update -q
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -q -y --no-install-recommends "${missing[@]}"
}
