"""`onebit completion`. The scripts hold all words: to ask onebit at every Tab would start Python each time."""

from __future__ import annotations

import importlib
from argparse import RawDescriptionHelpFormatter
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import NamedTuple

from onebit.cli.output import answer, say
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


class Words(NamedTuple):
    """What may follow an option of a verb; `after` is "" for the first argument, "-" for the options themselves."""

    verb: str
    after: str
    words: list[str]


def parser() -> Parser:
    made = Parser("completion", HOW_TO)
    made.formatter_class = RawDescriptionHelpFormatter
    made.add_argument("shell", choices=SHELLS)
    return made


def main(argv: list[str]) -> int:
    args = parser().parse(argv)
    trains = find_spec("yaml") is not None
    if not trains:
        say("note: without recipes and methods, which need pip install 'onebit[train]'")
    answer(SHELLS[args.shell](list(_table(trains))))
    return 0


def _table(trains: bool) -> Iterator[Words]:
    """All words that are known without torch; those in recipes only if it `trains`."""
    nets = net_names()
    known: dict[str, Iterable[str]] = {
        **{"--method": methods() if trains else (), "--dataset": DATASETS, "--task": TASKS, "--to": EXPORTS},
        **{"--init_from": nets, "NET": nets, "RUN-OR-NET": nets, "name": DATASETS},
    }
    fields = [name if name == "name" else name.removesuffix(".name") for name in flag_names()]
    flags = [f"--{name}" for name in (*fields, *OPTIONS)]
    yield Words("train", "", recipe_names() if trains else [])
    yield Words("train", "-", flags)
    yield from (Words("train", flag, sorted(known[flag])) for flag in flags if flag in known)
    for verb in VERBS.keys() - {"train"}:
        actions = importlib.import_module(f"onebit.cli.{verb}_verb").parser()._actions
        yield Words(verb, "-", [option for action in actions for option in action.option_strings])
        for action in actions:
            for option in action.option_strings or [""]:
                words = action.choices or known.get(option or str(action.metavar or action.dest), ())
                yield Words(verb, option, sorted(map(str, words)))


def _bash(table: list[Words]) -> str:
    patterns = {"": '"2 {0} "*', "-": '*" {0} "*" -"*'}
    found = {patterns.get(row.after, '*" {0} {1} "*').format(*row): row.words for row in table if row.words}
    found |= {'"1 "*': [*VERBS, "help"], '"2 help "*': [*VERBS]}
    lines = [f'    {case}) words="{" ".join(found[case])}" ;;' for case in sorted(found, reverse=True)]
    # in this order: values, options, names
    return "\n".join(
        [
            "_onebit() {",
            '    local current="${COMP_WORDS[COMP_CWORD]}" words=""',
            '    case "$COMP_CWORD ${COMP_WORDS[1]} ${COMP_WORDS[COMP_CWORD-1]} $current" in',
            *lines,
            "    esac",
            '    COMPREPLY=($(compgen -W "$words" -- "$current"))',
            "}",
            "complete -o default -F _onebit onebit  # files, if no word fits",
        ]
    )


def _zsh(table: list[Words]) -> str:
    return "autoload -Uz compinit bashcompinit && compinit && bashcompinit\n" + _bash(table)


def _fish(table: list[Words]) -> str:
    lines = [f"complete -c onebit -f -n __fish_use_subcommand -a {verb} -d '{VERBS[verb]}'" for verb in VERBS]
    lines.append(f"complete -c onebit -f -n '__fish_seen_subcommand_from help' -a '{' '.join(VERBS)}'")
    for verb, after, words in table:
        start = f"complete -c onebit -n '__fish_seen_subcommand_from {verb}'"
        for option in words if after == "-" else [after] if words else []:
            kind = f" {'-l' if option.startswith('--') else '-s'} {option.lstrip('-')}" if option else ""
            values = "" if after == "-" else f"{' -x' if option else ''} -a '{' '.join(words)}'"
            lines.append(f"{start}{kind}{values}")
    return "\n".join(lines)


SHELLS = {"bash": _bash, "zsh": _zsh, "fish": _fish}
