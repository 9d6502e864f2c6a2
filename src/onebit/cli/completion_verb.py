"""`onebit completion`. The scripts contain all words: asking onebit would start Python at every Tab."""

from __future__ import annotations

import importlib
from argparse import RawDescriptionHelpFormatter
from collections.abc import Iterable
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
    case "$COMP_CWORD:${COMP_WORDS[1]}:${COMP_WORDS[COMP_CWORD-1]}:$current" in
CASES
    esac
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -o default -F _onebit onebit  # files, if no word fits"""
FISH = """function __onebit
    set -l words (commandline -opc)
    set -l position (count $words)
    set -l current (commandline -ct)
    switch "$position:$words[2]:$words[-1]:$current"
CASES
    end
end
complete -c onebit -a '(__onebit)'"""
ZSH = "autoload -Uz compinit bashcompinit && compinit && bashcompinit\n" + BASH
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def parser() -> Parser:
    made = Parser("completion", HOW_TO)
    made.formatter_class = RawDescriptionHelpFormatter
    made.add_argument("shell", choices=SCRIPTS)
    return made


def main(argv: list[str]) -> int:
    shell = parser().parse(argv).shell
    case = "    case '{}'; printf '%s\\n' {}" if shell == "fish" else '    {}) words="{}" ;;'
    lines = [case.format(pattern, " ".join(map(str, words))) for pattern, words in _cases()]
    answer(SCRIPTS[shell].replace("CASES", "\n".join(lines)))
    return 0


def _cases() -> list[tuple[str, Iterable[str]]]:
    """Patterns of "POSITION:VERB:WORD-BEFORE:CURRENT" with their words; the first match counts."""
    first: list[tuple[str, Iterable[str]]] = [("1:*", [*VERBS, "help"]), ("2:help:*", VERBS)]
    options: list[tuple[str, Iterable[str]]] = []
    values: list[tuple[str, Iterable[str]]] = []
    for verb in VERBS:
        taken = _arguments(verb)
        options.append((f"*:{verb}:*:-*", [option for option, _ in taken if option]))
        values += [(f"*:{verb}:{option}:*", words) for option, words in taken if option and words]
        first += [(f"2:{verb}:*", words) for option, words in taken if words and not option]
    return values + options + first


def _arguments(verb: str) -> list[tuple[str, Iterable[str]]]:
    """Options, or "" for a positional argument, with their possible values."""
    trains = find_spec("yaml") is not None
    nets = net_names()
    names: dict[str, Iterable[str]] = {
        **{"--method": sorted(methods()) if trains else (), "--dataset": sorted(DATASETS), "--task": TASKS},
        **{"--to": EXPORTS, "--init_from": nets, "NET": nets, "RUN-OR-NET": nets, "name": sorted(DATASETS)},
    }
    if verb == "train":
        fields = [name if name == "name" else name.removesuffix(".name") for name in flag_names()]
        flags = [f"--{name}" for name in (*fields, *OPTIONS)]
        return [("", recipe_names() if trains else ()), *((flag, names.get(flag, ())) for flag in flags)]
    return [
        (option, action.choices or names.get(option or str(action.metavar or action.dest), ()))
        for action in importlib.import_module(f"onebit.cli.{verb}_verb").parser()._actions
        for option in action.option_strings or [""]
    ]
