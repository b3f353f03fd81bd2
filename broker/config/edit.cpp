// SPDX-License-Identifier: Apache-2.0
#include "config/edit.hpp"

#include <toml++/toml.h>

#include <algorithm>
#include <exception>
#include <utility>
#include <vector>

#include "config/statements.hpp"
#include "config/values.hpp"

namespace vtap::config {
namespace {

Error refuse(std::string message, ErrorKind kind = ErrorKind::usage) {
  return Error{std::move(message), kind};
}

/// Where one [[table]] stands. Its [table.sub] headers may lie behind tables of other kinds.
struct Place {
  std::vector<Span> runs;   ///< whole lines; the first begins with its header
  std::size_t body = 0;     ///< behind the header's line
  std::string indent = {};  ///< of its first key
};

/// Where the tables of one section stand in a text, in one of the two forms.
struct Layout {
  std::vector<Place> places;
  std::optional<Statement> list;      ///< policy = [...]
  std::vector<ListElement> elements;  ///< of the list
};

std::string indent_of(std::string_view text, const Statement& statement) {
  const auto line = text.substr(statement.lines.begin);
  return std::string(line.substr(0, std::min(line.find_first_not_of(" \t"), line.size())));
}

std::optional<Layout> layout_of(std::string_view text, Section section) {
  const auto statements = statements_of(text);
  if (!statements) return std::nullopt;
  Layout layout;
  Place* current = nullptr;  // the table that the statement before belongs to, if it is of ours
  bool in_root = true;
  for (const Statement& statement : *statements) {
    const bool ours = statement.key.front() == name_of(section);
    if (statement.kind == Statement::Kind::pair) {
      if (in_root && ours && statement.key.size() == 1) layout.list = statement;
      if (current == nullptr) continue;
      if (current->runs.size() == 1 && current->runs.front().end == current->body) {
        current->indent = indent_of(text, statement);
      }
      current->runs.back().end = statement.lines.end;
      continue;
    }
    in_root = false;
    Place* const before = current;
    current = nullptr;
    if (!ours) continue;
    if (statement.key.size() == 1) {
      if (statement.kind != Statement::Kind::element) return std::nullopt;
      layout.places.push_back({{statement.lines}, statement.lines.end});
      current = &layout.places.back();
      continue;
    }
    if (layout.places.empty()) return std::nullopt;
    current = &layout.places.back();
    if (current == before) {
      current->runs.back().end = statement.lines.end;
    } else {
      current->runs.push_back(statement.lines);
    }
  }
  if (layout.list) {
    auto elements = elements_of(text, layout.list->value);
    if (!elements) return std::nullopt;
    layout.elements = std::move(*elements);
  }
  return layout;
}

/// A text and what is in it.
class Draft {
 public:
  static Result<Draft> read(std::string_view text, Section section) {
    try {
      Draft draft(text, section, toml::parse(text));
      auto layout = layout_of(text, section);
      const auto* node = draft.root_.get(name_of(section));
      if (node != nullptr && !node->is_array()) {
        return refuse(draft.name() + " is no list of tables: [[" + draft.name() + "]]");
      }
      if (layout &&
          (layout->list ? layout->elements.size() : layout->places.size()) == draft.table_count()) {
        draft.layout_ = std::move(*layout);
        return draft;
      }
    } catch (const toml::parse_error& error) {
      return refuse(std::string(error.description()));
    }
    return refuse("the config is written in a way that cannot be edited table by table: write [[" +
                  std::string(name_of(section)) + "]] tables, or replace the whole text");
  }

  [[nodiscard]] std::string_view text() const noexcept { return text_; }
  [[nodiscard]] std::string name() const { return std::string(name_of(section_)); }
  [[nodiscard]] const Layout& layout() const noexcept { return layout_; }
  [[nodiscard]] const toml::table& root() const noexcept { return root_; }
  [[nodiscard]] std::string newline() const {
    const auto at = text_.find('\n');
    return at != std::string_view::npos && at > 0 && text_[at - 1] == '\r' ? "\r\n" : "\n";
  }

  [[nodiscard]] std::optional<std::size_t> find(std::string_view wanted) const {
    const auto* list = root_.get_as<toml::array>(name_of(section_));
    for (std::size_t i = 0; i < table_count(); ++i) {
      const auto* table = list->get_as<toml::table>(i);
      if (table != nullptr && table->get("name") != nullptr &&
          table->get("name")->value<std::string_view>() == wanted) {
        return i;
      }
    }
    return std::nullopt;
  }

 private:
  Draft(std::string_view text, Section section, toml::table root)
      : text_(text), section_(section), root_(std::move(root)) {}

  [[nodiscard]] std::size_t table_count() const {
    const auto* list = root_.get_as<toml::array>(name_of(section_));
    return list == nullptr ? 0 : list->size();
  }

  std::string_view text_;
  Section section_;
  toml::table root_;
  Layout layout_;
};

/// One change of a text.
struct Patch {
  Span at;
  std::string with;
};

std::string patched(std::string_view text, std::vector<Patch> patches) {
  std::stable_sort(patches.begin(), patches.end(),
                   [](const Patch& a, const Patch& b) { return a.at.begin < b.at.begin; });
  std::string out;
  std::size_t done = 0;
  for (const Patch& patch : patches) {
    out.append(text.substr(done, patch.at.begin - done)).append(patch.with);
    done = patch.at.end;
  }
  return out.append(text.substr(done));
}

/// The line at `at`, its newline included.
std::string_view line_at(std::string_view text, std::size_t at) {
  const auto end = text.find('\n', at);
  return text.substr(at, end == std::string_view::npos ? end : end + 1 - at);
}

/// Its first character that is no blank; '\n' if there is none, '\0' at the end of the text.
char first_of(std::string_view line) {
  if (line.empty()) return '\0';
  const auto at = line.find_first_not_of(" \t\r");
  return at == std::string_view::npos ? '\n' : line[at];
}

/// Of the line that ends at `end`, 0 for none.
std::size_t line_before(std::string_view text, std::size_t end) {
  if (end < 2) return 0;
  const auto newline = text.rfind('\n', end - 2);
  return newline == std::string_view::npos ? 0 : newline + 1;
}

std::string with_newlines(std::string text, const std::string& newline) {
  if (newline == "\n") return text;
  std::string out;
  for (const char c : text) c == '\n' ? out.append(newline) : out.append(1, c);
  return out;
}

// ---- [[policy]]

/// Comments right behind a table are its own, unless another header follows them at once.
std::size_t behind_comments(std::string_view text, std::size_t at) {
  std::size_t end = at;
  while (first_of(line_at(text, end)) == '#') end += line_at(text, end).size();
  return first_of(line_at(text, end)) == '[' ? at : end;
}

Result<Patch> added_table(const Draft& draft, const Json& item) {
  const auto text = draft.text();
  std::size_t at = text.size();
  std::string indent;
  if (!draft.layout().places.empty()) {
    at = 0;
    // The last of all of them: a [policy.sub] further down must stay behind its own table.
    for (const Place& place : draft.layout().places) at = std::max(at, place.runs.back().end);
    at = behind_comments(text, at);
    indent = draft.layout().places.back().indent;
  }
  auto lines = to_toml_lines(item, indent);
  if (!lines) return lines.error();
  std::string table = "[[" + draft.name() + "]]\n" + *lines;
  if (at > 0) table.insert(0, text[at - 1] == '\n' ? "\n" : "\n\n");
  return Patch{{at, at}, with_newlines(std::move(table), draft.newline())};
}

/// The lines of a run, and the empty one that set it apart.
Span with_empty_line(std::string_view text, Span run) {
  const std::size_t before = line_before(text, run.begin);
  if (before < run.begin && first_of(line_at(text, before)) == '\n') {
    run.begin = before;
  } else if (first_of(line_at(text, run.end)) == '\n') {
    run.end += line_at(text, run.end).size();
  }
  return run;
}

std::vector<Patch> removed_table(const Draft& draft, std::size_t index) {
  std::vector<Patch> patches;
  for (const Span& run : draft.layout().places[index].runs) {
    patches.push_back({with_empty_line(draft.text(), run), {}});
  }
  return patches;
}

Result<std::vector<Patch>> replaced_table(const Draft& draft, std::size_t index, const Json& item) {
  const Place& place = draft.layout().places[index];
  auto lines = to_toml_lines(item, place.indent);
  if (!lines) return lines.error();
  auto patches = removed_table(draft, index);
  // The header stays, and what stands behind it on its line.
  const Span body{place.body, place.runs.front().end};
  const bool at_line = draft.text()[body.begin - 1] == '\n';
  patches.front() = {body, with_newlines((at_line ? "" : "\n") + *lines, draft.newline())};
  return patches;
}

// ---- policy = [{ ... }]

Result<Patch> added_element(const Draft& draft, const Json& item) {
  auto table = to_toml(item);
  if (!table) return table.error();
  const auto text = draft.text();
  const auto& elements = draft.layout().elements;
  if (elements.empty()) {
    const std::size_t inside = draft.layout().list->value.begin + 1;
    return Patch{{inside, inside}, *table};
  }
  // Spaced as the last one is.
  const ListElement& last = elements.back();
  const std::size_t before =
      elements.size() > 1 ? *elements[elements.size() - 2].comma : draft.layout().list->value.begin;
  const auto gap = text.substr(before + 1, last.at.begin - before - 1);
  const auto newline = gap.rfind('\n');
  const std::string space = newline == std::string_view::npos
                                ? " "
                                : draft.newline() + std::string(gap.substr(newline + 1));
  if (!last.comma) return Patch{{last.at.end, last.at.end}, "," + space + *table};
  return Patch{{*last.comma + 1, *last.comma + 1}, space + *table + ","};
}

std::vector<Patch> removed_element(const Draft& draft, std::size_t index) {
  const auto text = draft.text();
  const auto& elements = draft.layout().elements;
  // An empty list is refused; so the last element takes its list along.
  if (elements.size() == 1) return {{with_empty_line(text, draft.layout().list->lines), {}}};
  const ListElement& gone = elements[index];
  std::vector<Patch> patches;
  Span at = gone.at;
  if (gone.comma && *gone.comma == at.end) {
    at.end += 1;
  } else if (gone.comma) {
    patches.push_back({{*gone.comma, *gone.comma + 1}, {}});
  } else {
    const std::size_t comma = *elements[index - 1].comma;
    patches.push_back({{comma, comma + 1}, {}});
  }
  while (at.end < text.size() && (text[at.end] == ' ' || text[at.end] == '\t')) ++at.end;
  const std::size_t line = at.begin == 0 ? 0 : text.rfind('\n', at.begin - 1) + 1;
  const bool alone =
      text.substr(line, at.begin - line).find_first_not_of(" \t") == std::string_view::npos;
  if (alone && first_of(line_at(text, at.end)) == '\n') {
    at = {line, at.end + line_at(text, at.end).size()};
  }
  patches.push_back({at, {}});
  return patches;
}

Result<std::vector<Patch>> replaced_element(const Draft& draft, std::size_t index,
                                            const Json& item) {
  auto table = to_toml(item);
  if (!table) return table.error();
  return std::vector<Patch>{{draft.layout().elements[index].at, std::move(*table)}};
}

// ---- all of them

/// The table that `item` becomes, parsed from the text that it becomes.
Result<toml::table> table_of(const Json& item) {
  if (!item.is_object()) return refuse("the keys of a table are a JSON object");
  auto lines = to_toml_lines(item);
  if (!lines) return lines.error();
  auto parsed = to_json(*lines);
  if (!parsed || *parsed != item) return refuse("this JSON cannot be written as TOML");
  return toml::parse(*lines);
}

/// The patched text, if it is what was meant: `expected` in the place of the section's list.
Result<std::string> checked(const Draft& draft, const std::vector<Patch>& patches,
                            const toml::array& expected) {
  std::string text = patched(draft.text(), patches);
  toml::table meant(draft.root());
  meant.erase(draft.name());
  if (!expected.empty()) meant.insert(draft.name(), expected);
  try {
    if (toml::parse(text) == meant) return text;
  } catch (const toml::parse_error&) {
    // Not to be: the answer is the same.
  }
  return refuse(
      "the config is written in a way that this edit would damage: replace the whole text");
}

toml::array list_of(const Draft& draft) {
  const auto* list = draft.root().get_as<toml::array>(draft.name());
  return list == nullptr ? toml::array() : toml::array(*list);
}

Error no_such(const Draft& draft, std::string_view name) {
  return refuse("there is no " + draft.name() + ' ' + config::quoted(name));
}

}  // namespace

std::string_view name_of(Section section) noexcept {
  switch (section) {
    case Section::tap:
      return "tap";
    case Section::monitor:
      return "monitor";
    case Section::policy:
      break;
  }
  return "policy";
}

Result<std::string> add(std::string_view text, Section section, const Json& item) {
  auto draft = Draft::read(text, section);
  if (!draft) return draft.error();
  auto table = table_of(item);
  if (!table) return table.error();
  const auto name = (*table)["name"].value<std::string>();
  if (name && draft->find(*name)) {
    return refuse("there is a " + draft->name() + ' ' + config::quoted(*name) + " already",
                  ErrorKind::conflict);
  }
  auto patch = draft->layout().list ? added_element(*draft, item) : added_table(*draft, item);
  if (!patch) return patch.error();
  toml::array expected = list_of(*draft);
  expected.push_back(std::move(*table));
  return checked(*draft, {std::move(*patch)}, expected);
}

Result<std::string> replace(std::string_view text, Section section, std::string_view name,
                            const Json& item) {
  auto draft = Draft::read(text, section);
  if (!draft) return draft.error();
  auto table = table_of(item);
  if (!table) return table.error();
  const auto index = draft->find(name);
  if (!index) return no_such(*draft, name);
  auto patches = draft->layout().list ? replaced_element(*draft, *index, item)
                                      : replaced_table(*draft, *index, item);
  if (!patches) return patches.error();
  toml::array expected = list_of(*draft);
  expected.replace(expected.cbegin() + static_cast<std::ptrdiff_t>(*index), std::move(*table));
  return checked(*draft, *patches, expected);
}

Result<std::string> remove(std::string_view text, Section section, std::string_view name) {
  auto draft = Draft::read(text, section);
  if (!draft) return draft.error();
  const auto index = draft->find(name);
  if (!index) return no_such(*draft, name);
  const auto patches =
      draft->layout().list ? removed_element(*draft, *index) : removed_table(*draft, *index);
  toml::array expected = list_of(*draft);
  expected.erase(expected.cbegin() + static_cast<std::ptrdiff_t>(*index));
  return checked(*draft, patches, expected);
}

}  // namespace vtap::config
