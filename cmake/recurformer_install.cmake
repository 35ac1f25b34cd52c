# Installs the headers and a package, so that find_package(recurformer) works. Three export sets, because
# recurformer::checkpoint and recurformer::tokenizer may be missing on either side.
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)
set(package_dir "${CMAKE_INSTALL_DATADIR}/cmake/recurformer")

install(DIRECTORY include/recurformer TYPE INCLUDE)
install(TARGETS recurformer EXPORT recurformer_targets)
install(EXPORT recurformer_targets NAMESPACE recurformer:: DESTINATION "${package_dir}")
if(TARGET recurformer_checkpoint)
  install(TARGETS recurformer_checkpoint EXPORT recurformer_checkpoint_targets)
  install(EXPORT recurformer_checkpoint_targets NAMESPACE recurformer:: DESTINATION "${package_dir}")
endif()
if(TARGET recurformer_tokenizer)
  install(TARGETS recurformer_tokenizer EXPORT recurformer_tokenizer_targets)
  install(EXPORT recurformer_tokenizer_targets NAMESPACE recurformer:: DESTINATION "${package_dir}")
  install(FILES cmake/FindPCRE2.cmake cmake/Findutf8proc.cmake DESTINATION "${package_dir}")
endif()

install(FILES cmake/recurformer_instruction_sets.cmake cmake/recurformer_isolate_set.cmake DESTINATION "${package_dir}")
configure_package_config_file(cmake/recurformer-config.cmake.in recurformer-config.cmake
                              INSTALL_DESTINATION "${package_dir}")
# Before 1.0 every minor version may change the interface.
write_basic_package_version_file(recurformer-config-version.cmake COMPATIBILITY SameMinorVersion
                                 ARCH_INDEPENDENT)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/recurformer-config.cmake"
              "${CMAKE_CURRENT_BINARY_DIR}/recurformer-config-version.cmake" DESTINATION "${package_dir}")

# The same for pkg-config. Paths are relative to the .pc files, so that an installation may be moved.
set(pc_dir "${CMAKE_INSTALL_FULL_DATADIR}/pkgconfig")
file(RELATIVE_PATH pc_to_include "${pc_dir}" "${CMAKE_INSTALL_FULL_INCLUDEDIR}")
foreach(package recurformer recurformer-checkpoint)
  configure_file(cmake/${package}.pc.in ${package}.pc @ONLY)
  install(FILES "${CMAKE_CURRENT_BINARY_DIR}/${package}.pc" DESTINATION "${CMAKE_INSTALL_DATADIR}/pkgconfig")
endforeach()

install(FILES LICENSE DESTINATION "${CMAKE_INSTALL_DOCDIR}")
