"""`onebit completion`. The scripts hold all words: to ask onebit at every Tab would start Python each time."""

from __future__ import annotations

import importlib
from argparse import RawDescriptionHelpFormatter
from collections.abc import Iterable, Iterator
from importlib.util import find_spec

from onebit.cli.output import answer
from onebit.cli.parsing import Parser
from onebit.cli.train_command import OPTIONS
from onebit.cli.verbs import VERBS
from onebit.data import DATASETS
from onebit.export import EXPORTS
from onebit.nets import net_names
from onebit.recipe import flag_names, methods, recipe_names
from onebit.recipe.request import TASKS

HOW_TO = """Print a script that completes verbs, options, recipes, nets, methods and data sets when Tab is pressed.

bash: onebit completion bash >> ~/.bashrc
zsh:  onebit completion zsh >> ~/.zshrc
fish: onebit completion fish > ~/.config/fish/completions/onebit.fish"""
BASH = """_onebit() {
    local current="${COMP_WORDS[COMP_CWORD]}" words=""
    case "$COMP_CWORD ${COMP_WORDS[1]} ${COMP_WORDS[COMP_CWORD-1]} $current" in
CASES
    esac
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -o default -F _onebit onebit  # files, if no word fits"""
FISH = """function __onebit
    set -l words (commandline -opc)
    set -l place (count $words)
    set -l current (commandline -ct)
    switch "$place $words[2] $words[-1] $current"
CASES
    end
end
complete -c onebit -a '(__onebit)'"""
SHELLS = {
    "bash": (BASH, '    {pattern}) words="{words}" ;;'),
    "zsh": (
        f"autoload -Uz compinit bashcompinit && compinit && bashcompinit\n{BASH}",
        '    {pattern}) words="{words}" ;;',
    ),
    "fish": (FISH, "    case '{pattern}'; printf '%s\\n' {words}"),
}
"""Shell -> its script, and one of the CASES."""


def parser() -> Parser:
    made = Parser("completion", HOW_TO)
    made.formatter_class = RawDescriptionHelpFormatter
    made.add_argument("shell", choices=SHELLS)
    return made


def main(argv: list[str]) -> int:
    shell = parser().parse(argv).shell
    script, case = SHELLS[shell]
    lines = [
        case.format(pattern=pattern if shell == "fish" else pattern.replace(" ", r"\ "), words=" ".join(words))
        for pattern, words in _cases()
    ]
    answer(script.replace("CASES", "\n".join(lines)))
    return 0


def _cases() -> Iterator[tuple[str, Iterable[str]]]:
    """Patterns of "PLACE VERB WORD-BEFORE CURRENT" with the words that fit; the first pattern that matches counts."""
    nets = net_names()
    trains = find_spec("yaml") is not None
    names: dict[str, Iterable[str]] = {
        **{"RECIPE": recipe_names() if trains else (), "--method": methods() if trains else ()},
        **{"--dataset": DATASETS, "--task": TASKS, "--to": EXPORTS, "--init_from": nets},
        **{"NET": nets, "RUN-OR-NET": nets, "name": DATASETS},
    }
    cases: dict[str, Iterable[str]] = {"1 *": [*VERBS, "help"], "2 help *": VERBS}
    for verb in VERBS:
        taken = list(_arguments(verb))
        cases[f"* {verb} * -*"] = [option for option, _, _ in taken if option]
        for option, name, choices in taken:
            if words := list(map(str, choices)) or sorted(names.get(name, ())):
                cases[f"* {verb} {option} *" if option else f"2 {verb} *"] = words
    # values of options, options, names
    yield from sorted(cases.items(), key=lambda case: (case[0][0] != "*", case[0].endswith("-*")))


def _arguments(verb: str) -> Iterator[tuple[str, str, Iterable[object]]]:
    """Option, or "" for a word; what it names; its choices."""
    if verb == "train":
        yield "", "RECIPE", ()
        for name in (*flag_names(), *OPTIONS):
            flag = f"--{name if name == 'name' else name.removesuffix('.name')}"
            yield flag, flag, ()
        return
    for action in importlib.import_module(f"onebit.cli.{verb}_verb").parser()._actions:
        for option in action.option_strings or [""]:
            yield option, option or str(action.metavar or action.dest), action.choices or ()
