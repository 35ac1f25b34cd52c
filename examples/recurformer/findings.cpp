// What the figures say, in sentences. Every verdict is computed; where an arm did not run, its sentence is
// left out.

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "report.hpp"
#include "report_values.hpp"

namespace cli {

namespace {

using nlohmann::json;
using values::Number;

/// Bits per byte closer than this are not told apart by one run at this size.
constexpr double quality_noise = 0.01;
/// Speeds closer than this are not told apart on a machine with other work to do.
constexpr double speed_noise = 0.05;
/// Recall this much lower counts as lost.
constexpr double recall_noise = 0.01;

std::string name_of(const json& row) {
  std::string name = values::string(row, "/name");
  return name.empty() ? values::string(row, "/key") : name;
}

Number bits(const json* row) { return row ? values::number(*row, "/bits_per_byte") : Number(); }
Number recall(const json* row) { return row ? values::number(*row, "/copy_recall") : Number(); }
std::string bits_text(Number value) { return values::decimal(*value, 4); }
std::string recall_text(Number value) { return values::decimal(*value, 3); }

/// "1.5 % worse (more bits) than", "not clearly different (+0.3 %) from".
std::string quality_against(double ratio) {
  if (std::abs(ratio - 1) < quality_noise)
    return "within the noise of a single run (" + values::change(ratio) + ") of";
  return values::decimal(100 * std::abs(ratio - 1), 1) + " % " + (ratio > 1 ? "worse" : "better") + " than";
}

/// "faster, 1.62 times the original's speed".
std::string speed_against(double ratio) {
  const std::string times = values::decimal(ratio, 2) + " times the original's speed";
  if (std::abs(ratio - 1) < speed_noise) return "no different within what can be measured, " + times;
  return (ratio > 1 ? "faster, " : "slower, ") + times;
}

class Observer {
 public:
  explicit Observer(const json& report)
      : report_(report),
        original_(values::row(report, "original")),
        continued_(values::row(report, "original_continued")),
        streaming_(values::row(report, "streaming")),
        main_(values::main_row(report)),
        key_(main_ ? values::string(*main_, "/key") : "mamba") {}

  std::vector<std::string> sentences() {
    if (!original_) return {"The original was not measured, so there is nothing to compare with."};
    quality();
    streaming();
    copying();
    choice();
    stages();
    other_arms();
    cache();
    speed();
    growth();
    return std::move(sentences_);
  }

 private:
  void say(std::string sentence) { sentences_.push_back(std::move(sentence)); }
  const json* row(const std::string& key) const { return values::row(report_, key); }
  bool original_copies() const { return recall(original_).value_or(0) >= 0.9; }

  void quality() {
    const Number of_original = values::ratio(bits(main_), bits(original_)),
                 of_continued = values::ratio(bits(main_), bits(continued_));
    if (!of_original) return;
    std::string sentence = "Quality: " + name_of(*main_) + " ends at " + bits_text(bits(main_)) +
                           " bits per byte of held-out text, " + quality_against(*of_original) +
                           " the original (" + bits_text(bits(original_)) + ").";
    if (of_continued) {
      sentence += " Against the original trained on for as many tokens (" + bits_text(bits(continued_)) +
                  "), the fairer comparison, it is " + quality_against(*of_continued) + " that model.";
      if (*of_original<1 - quality_noise&& * of_continued> 1 + quality_noise)
        sentence +=
            " So its gain over the original comes from longer training, not from the recurrent heads.";
    }
    say(sentence);
  }

  void streaming() {
    const Number against = values::ratio(bits(main_), bits(streaming_));
    if (!against) return;
    std::string sentence =
        "Baseline: streaming attention (first tokens and a window) in the same places, trained "
        "on for as long and without new weights, reaches " +
        bits_text(bits(streaming_)) + " bits per byte";
    if (recall(streaming_)) sentence += " and copy recall " + recall_text(recall(streaming_));
    sentence += ". " + name_of(*main_) + " is " + quality_against(*against) + " it.";
    if (*against > 1 + quality_noise)
      sentence += streaming_costs_no_more()
                      ? " The simple baseline wins on quality and is no worse in cache and decode speed: "
                        "nothing measured here argues for recurrent heads over a window."
                      : " On quality the simple baseline wins.";
    else if (*against < 1 - quality_noise)
      sentence += " On quality the recurrent heads earn their place.";
    else
      sentence += " On quality neither wins.";
    say(sentence);
  }

  bool streaming_costs_no_more() const {
    const std::vector<std::int64_t> contexts = values::cache_contexts(report_);
    if (contexts.empty()) return false;
    const Number cache = values::ratio(values::cache_bytes(*streaming_, contexts.back()),
                                       values::cache_bytes(*main_, contexts.back())),
                 decode = values::ratio(values::number(*streaming_, "/decode_tokens_per_second"),
                                        values::number(*main_, "/decode_tokens_per_second"));
    return cache && decode && *cache < 1.01 && *decode > 1 - speed_noise;
  }

  void copying() {
    const Number before = recall(original_), after = recall(main_);
    if (!before) return;
    if (!original_copies())
      return say("Recall: the original itself copies with an accuracy of only " + recall_text(before) +
                 ", so copy recall cannot tell the arms apart in this run.");
    if (!after) return;
    const std::string figures = recall_text(after) + " against the original's " + recall_text(before);
    const double lost = *before - *after;
    if (lost <= recall_noise)
      say("Recall: copying over a long distance is kept, " + figures + ".");
    else
      say(std::string("Recall: copying over a long distance is ") + (lost < 0.1 ? "damaged, " : "lost, ") +
          figures + ".");
  }

  void choice() {
    const json *chosen = row(key_ + "_untrained"), *reverse = row("reverse_untrained");
    if (!chosen || !reverse || !recall(chosen) || !recall(reverse)) return;
    std::string sentence = "Choice of heads: right after conversion, before any training, copy recall is " +
                           recall_text(recall(chosen)) +
                           " when the most recency-aware groups are replaced and " +
                           recall_text(recall(reverse)) + " when the least recency-aware ones are.";
    if (original_copies()) {
      const double difference = *recall(chosen) - *recall(reverse);
      if (difference > 0.1)
        sentence += " The recency ratio finds the groups that recall needs.";
      else if (difference < -0.1)
        sentence += " The recency ratio chose worse than its opposite.";
      else
        sentence += " The choice made no clear difference to recall.";
    }
    if (const Number cost = values::ratio(bits(chosen), bits(reverse)))
      sentence += " In bits per byte at that point its choice is " + quality_against(*cost) + " the reverse.";
    say(sentence);
  }

  void stages() {
    const json *untrained = row(key_ + "_untrained"), *stage1 = row(key_ + "_stage1");
    if (!untrained || !bits(untrained) || !bits(main_)) return;
    std::string sentence =
        "Training: " + bits_text(bits(untrained)) + " bits per byte right after conversion";
    if (stage1 && bits(stage1))
      sentence += ", " + bits_text(bits(stage1)) + " after matching the outputs of the replaced heads";
    sentence += ", " + bits_text(bits(main_)) + " after training the whole model on.";
    if (*bits(main_) >= *bits(untrained)) sentence += " Training did not help.";
    if (const json* windowed = row("streaming_untrained"))
      if (const Number cost = values::ratio(bits(windowed), bits(original_)))
        sentence += " Streaming heads start at " + bits_text(bits(windowed)) + " (" + values::change(*cost) +
                    " against the original).";
    say(sentence);
  }

  /// The arms that only --all-arms runs.
  void other_arms() {
    for (const char* key : {"mamba", "mamba2", "random", "all_groups"}) {
      const json* arm = row(key);
      if (!arm || arm == main_ || !bits(arm)) continue;
      std::string sentence =
          "Also run: " + name_of(*arm) + " ends at " + bits_text(bits(arm)) + " bits per byte";
      if (recall(arm)) sentence += " and copy recall " + recall_text(recall(arm));
      if (const Number against = values::ratio(bits(arm), bits(main_)))
        sentence += "; its bits per byte are " + quality_against(*against) + " those of " + name_of(*main_);
      if (original_copies() && recall(arm) && *recall(original_) - *recall(arm) > 0.1)
        sentence += "; it loses recall";
      say(sentence + ".");
    }
  }

  void cache() {
    const std::vector<std::int64_t> contexts = values::cache_contexts(report_);
    if (!main_ || contexts.empty()) return;
    std::string list;
    bool smaller = true;
    for (const std::int64_t context : contexts)
      if (const Number share =
              values::ratio(values::cache_bytes(*main_, context), values::cache_bytes(*original_, context))) {
        list += (list.empty() ? "" : ", ") + values::percent(*share) + " at " + values::context(context);
        smaller = smaller && *share < 1;
      }
    if (list.empty()) return;
    std::string sentence = "Cache, as a share of the original's: " + list + " tokens.";
    if (!smaller)
      sentence += " At short contexts the states cost more than the keys and values they replace.";
    const std::int64_t longest = contexts.back();
    if (streaming_)
      if (const Number rival =
              values::ratio(values::cache_bytes(*main_, longest), values::cache_bytes(*streaming_, longest)))
        sentence += " Against the streaming baseline's at " + values::context(longest) + ": " +
                    values::percent(*rival) + ".";
    say(sentence);
  }

  void speed() {
    if (!main_) return;
    const Number decode = values::ratio(values::number(*main_, "/decode_tokens_per_second"),
                                        values::number(*original_, "/decode_tokens_per_second")),
                 prefill = values::ratio(values::number(*main_, "/prefill_tokens_per_second"),
                                         values::number(*original_, "/prefill_tokens_per_second"));
    if (!decode && !prefill) return;
    std::string sentence = "Speed";
    if (const Number context = values::number(report_, "/speed_context"))
      sentence += " at " + values::context(std::llround(*context)) + " tokens";
    sentence += ": ";
    if (decode) sentence += "decode is " + speed_against(*decode);
    if (prefill) sentence += std::string(decode ? "; " : "") + "prefill is " + speed_against(*prefill);
    sentence += ".";
    if (streaming_)
      if (const Number rival = values::ratio(values::number(*main_, "/decode_tokens_per_second"),
                                             values::number(*streaming_, "/decode_tokens_per_second")))
        sentence +=
            " Against the streaming baseline, decode is " + values::decimal(*rival, 2) + " times as fast.";
    say(sentence);
  }

  /// From which context length on the main arm decodes faster than the original.
  void growth() {
    const std::vector<double> lengths = values::numbers(values::array(report_, "/context/lengths"));
    std::vector<double> original, converted;
    for (const json& row : values::array(report_, "/context/rows")) {
      const std::string name = values::string(row, "/name");
      const auto speeds = values::numbers(values::array(row, "/decode_tokens_per_second"));
      if (name == name_of(*original_)) original = speeds;
      if (main_ && name == name_of(*main_)) converted = speeds;
    }
    const std::size_t count = std::min({lengths.size(), original.size(), converted.size()});
    if (count < 2) return;
    std::size_t faster_from = count;
    while (faster_from > 0 && converted[faster_from - 1] > (1 + speed_noise) * original[faster_from - 1])
      --faster_from;
    if (faster_from == count)
      say("Growth: at the longest context measured, " + values::context(std::llround(lengths[count - 1])) +
          " tokens, decoding is not clearly faster than the original's.");
    else
      say("Growth: decoding is clearly faster than the original's " +
          (faster_from == 0 ? std::string("at all lengths measured")
                            : "from " + values::context(std::llround(lengths[faster_from])) + " tokens on") +
          ", " + values::decimal(converted[count - 1] / original[count - 1], 2) + " times at " +
          values::context(std::llround(lengths[count - 1])) + ".");
  }

  const json& report_;
  const json *original_, *continued_, *streaming_, *main_;
  std::string key_;
  std::vector<std::string> sentences_;
};

}  // namespace

std::vector<std::string> observations(const json& report) { return Observer(report).sentences(); }

std::vector<std::string> limits(const json& report) {
  std::vector<std::string> out;
  if (values::flag(report, "/settings/quick"))
    out.push_back(
        "This was a quick run with a fraction of the training: it shows that everything works, not what "
        "the method is worth.");
  out.push_back("One run with one seed: differences in bits per byte below about 1 % mean nothing.");
  if (const Number parameters = values::number(report, "/model/parameters"))
    out.push_back(
        "The model has " + values::tokens(*parameters) +
        " parameters: what is seen is how the method works, not what it would do to a large model, and "
        "the figures do not compare with those of the paper.");
  std::string recall = "Recall is one task, copying at a fixed distance";
  if (const Number lag = values::number(report, "/settings/copy_lag"))
    recall += " of " + values::decimal(*lag, 0) + " tokens";
  out.push_back(recall +
                ", which the models were trained for; other kinds of recall were not measured. Bits per "
                "byte on such short rows hardly depend on far context and do not show recall.");
  const Number length = values::number(report, "/settings/length"),
               context = values::number(report, "/speed_context");
  if (length && context && *context > *length)
    out.push_back(
        "Quality was measured on rows of " + values::decimal(*length, 0) +
        " tokens, the length trained on; cache and speed at longer contexts say nothing about quality "
        "there.");
  std::string speed = "Speeds are those of this machine";
  if (const Number threads = values::number(report, "/machine/threads"))
    speed += " with " + values::decimal(*threads, 0) + (*threads == 1 ? " thread" : " threads");
  out.push_back(speed +
                ", measured once and disturbed by whatever else ran on it; differences below about 5 % "
                "mean nothing.");
  return out;
}

std::vector<std::string> findings(const json& report) {
  std::vector<std::string> out = observations(report);
  const std::vector<std::string> more = limits(report);
  out.insert(out.end(), more.begin(), more.end());
  return out;
}

}  // namespace cli
