// SPDX-License-Identifier: Apache-2.0
#include <memory>

#include "command_line.hpp"
#include "shell.hpp"

namespace vtap::ctl {
namespace {

// The scripts know no command and no option: they ask `vtapctl __complete`, which looks at the
// command tree. A tab stands before the description of a word; ":files" means names of files.

// Bash splits words at ':' and '=', which stand in addresses and in --option=value: they are put
// together again, and of each candidate only what is behind the last of them replaces the word.
constexpr const char* kBash =
    R"(# bash completion for vtapctl; load it by: source <(vtapctl completion bash)
_vtapctl() {
  local words=() word glue='' line current kept
  for word in "${COMP_WORDS[@]:1:COMP_CWORD}"; do
    if [[ -n $glue || ${#words[@]} -gt 0 && $word == [:=]* ]]; then
      words[${#words[@]}-1]+=$word
    else
      words+=("$word")
    fi
    [[ $word == *[:=] ]] && glue=1 || glue=''
  done
  current=${words[${#words[@]}-1]}
  kept=${current%"${current##*[:=]}"}
  COMPREPLY=()
  while IFS= read -r line; do
    if [[ $line == :files ]]; then
      compopt -o filenames 2>/dev/null
      while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -f -- "${current#"$kept"}")
      return
    fi
    line=${line%%$'\t'*}
    [[ $line == *= ]] && compopt -o nospace 2>/dev/null
    COMPREPLY+=("${line#"$kept"}")
  done < <("${COMP_WORDS[0]}" __complete "${words[@]}" 2>/dev/null)
}
complete -F _vtapctl vtapctl
)";

constexpr const char* kZsh = R"(#compdef vtapctl
# zsh completion for vtapctl; put it as _vtapctl into a directory of $fpath, or load it by:
# source <(vtapctl completion zsh)
_vtapctl() {
  local line
  local -a candidates
  for line in "${(@f)$(${words[1]} __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
    if [[ $line == :files ]]; then
      [[ $PREFIX == --*=* ]] && compset -P '*='
      _files
      return
    fi
    [[ -n $line ]] && candidates+=(${${line//:/\\:}/$'\t'/:})
  done
  (( ${#candidates} )) && _describe vtapctl candidates
}
if [[ $funcstack[1] == _vtapctl ]]; then
  _vtapctl "$@"
else
  compdef _vtapctl vtapctl
fi
)";

constexpr const char* kFish =
    R"(# fish completion for vtapctl; load it by: vtapctl completion fish | source
function __vtapctl_candidates
  set -l words (commandline -opc)
  set -l current (commandline -ct)
  for line in ($words[1] __complete $words[2..-1] "$current" 2>/dev/null)
    if test "$line" = :files
      __fish_complete_path $current
    else
      echo $line
    end
  end
end
complete -c vtapctl -f -a '(__vtapctl_candidates)'
)";

std::string script_of(const std::string& shell) {
  if (shell == "bash") return kBash;
  return shell == "zsh" ? kZsh : kFish;
}

}  // namespace

void add_completion(CLI::App& app, Shell& shell) {
  CLI::App* completion =
      app.add_subcommand("completion", "Prints the script with which a shell completes vtapctl");
  auto wanted = std::make_shared<std::string>();
  one_of(completion->add_option("SHELL", *wanted)->required(), {"bash", "zsh", "fish"});
  completion->callback([&shell, wanted] {
    shell.asks_broker = false;
    shell.action = [wanted](const Session& session) -> Result<Exit> {
      session.io.out << script_of(*wanted);
      return Exit::done;
    };
  });
}

}  // namespace vtap::ctl
