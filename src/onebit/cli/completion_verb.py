"""`onebit completion`.

A generator of our own: shtab wants one argparse parser of all verbs, which would import them all, and `train` has none;
argcomplete starts Python at every Tab. Options are read from the help of each verb, so that no list of them is kept.
"""

from __future__ import annotations

import importlib
import re
from argparse import RawDescriptionHelpFormatter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from io import StringIO

from onebit.cli.output import answer, say
from onebit.cli.parsing import Parser, one_of
from onebit.cli.verbs import VERBS

HOW_TO = """Print a script that completes verbs, options, recipes, nets, methods and data sets when Tab is pressed.

bash: onebit completion bash >> ~/.bashrc
zsh:  onebit completion zsh >> ~/.zshrc
fish: onebit completion fish > ~/.config/fish/completions/onebit.fish"""


@dataclass(frozen=True)
class Words:
    """What may follow a verb: names for its argument, options, and the values of options that have a choice."""

    names: Sequence[str]
    options: Sequence[str]
    values: Mapping[str, Sequence[str]]


def main(argv: list[str]) -> int:
    parser = Parser("completion", HOW_TO)
    parser.formatter_class = RawDescriptionHelpFormatter
    parser.add_argument("shell", **one_of(*SHELLS))
    args = parser.parse(argv)
    names = _names(trains := find_spec("yaml") is not None)
    if not trains:
        say("note: without recipes and the options of training, which need pip install 'onebit[train]'")
    answer(SHELLS[args.shell]({verb: _words(_help(verb), names.get(verb, {})) for verb in VERBS}))
    return 0


def _words(text: str, names: Mapping[str, Iterable[str]]) -> Words:
    """The options in the help of a verb, with the names that the help does not list."""
    lines = re.findall(r"^  (-.*?)(?:   ?\S|$)", text, re.MULTILINE)  # an option and its value, without what it means
    options = {option for line in lines for option in re.findall(r"(?<![\w-])--?[a-zA-Z][\w.-]*", line)}
    choices = filter(None, (re.search(r"(--[\w-]+) (\w+(?:\|\w+)+)", line) for line in lines))
    values = {choice[1]: choice[2].split("|") for choice in choices}
    values |= {option: sorted(found) for option, found in names.items() if option}
    return Words(sorted(names.get("", ())), sorted(options), values)


def _help(verb: str) -> str:
    text = StringIO()
    with redirect_stdout(text), suppress(SystemExit):
        importlib.import_module(f"onebit.cli.{verb}_verb").main(["--help"])
    return text.getvalue()


def _names(trains: bool) -> dict[str, dict[str, Iterable[str]]]:
    """Verb -> option, or "" for the argument -> its names, as far as they are known without torch.

    Args:
        trains: recipes can be read, and with them the methods.
    """
    from onebit.cli.list_verb import TABLES
    from onebit.data import DATASETS
    from onebit.export import EXPORTS
    from onebit.nets import net_names
    from onebit.recipe import methods, recipe_names
    from onebit.recipe.request import TASKS

    ways = methods() if trains else {}
    return {
        "train": {
            "": recipe_names() if trains else (),
            **{"--method": ways, "--dataset": DATASETS, "--task": TASKS, "--init_from": net_names()},
        },
        "evaluate": {"": net_names(), "--dataset": DATASETS},
        "inspect": {"": net_names()},
        "summary": {"": net_names(), "--dataset": DATASETS, "--method": ways},
        "verify": {"": net_names()},
        "predict": {"": net_names()},
        "export": {"": net_names(), "--to": EXPORTS},
        "bench": {"": net_names()},
        "list": {"": TABLES},
        "data": {"": DATASETS},
        "completion": {"": SHELLS},
    }


def _bash(verbs: Mapping[str, Words]) -> str:
    every = " ".join(verbs)
    lines = [
        "_onebit() {",
        '    local current="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" words=""',
        '    case "${COMP_WORDS[1]} $before" in',
    ]
    for verb, known in verbs.items():
        for option, values in known.values.items():
            lines.append(f'    "{verb} {option}") words="{" ".join(values)}" ;;')
    lines += [
        "    *)",
        '        case "$COMP_CWORD ${COMP_WORDS[1]} $current" in',
        f'        "1 "*|"2 help "*) words="{every} help" ;;',
    ]
    for verb, known in verbs.items():
        lines.append(f'        *" {verb} -"*) words="{" ".join(known.options)}" ;;')
        if known.names:
            lines.append(f'        "2 {verb} "*) words="{" ".join(known.names)}" ;;')
    lines += [
        "        esac ;;",
        "    esac",
        '    COMPREPLY=($(compgen -W "$words" -- "$current"))',
        "}",
        "complete -o default -F _onebit onebit  # files, if no word fits",
    ]
    return "\n".join(lines)


def _zsh(verbs: Mapping[str, Words]) -> str:
    return "autoload -Uz compinit bashcompinit && compinit && bashcompinit\n" + _bash(verbs)


def _fish(verbs: Mapping[str, Words]) -> str:
    def seen(verb: str) -> str:
        return f"complete -c onebit -n '__fish_seen_subcommand_from {verb}'"

    lines = [f"complete -c onebit -f -n __fish_use_subcommand -a {verb} -d '{VERBS[verb]}'" for verb in verbs]
    lines.append(f"complete -c onebit -f -n '__fish_seen_subcommand_from help' -a '{' '.join(verbs)}'")
    for verb, known in verbs.items():
        if known.names:
            lines.append(f"{seen(verb)} -a '{' '.join(known.names)}'")
        for option in known.options:
            kind = "-l" if option.startswith("--") else "-s"
            values = f" -x -a '{' '.join(known.values[option])}'" if option in known.values else ""
            lines.append(f"{seen(verb)} {kind} {option.lstrip('-')}{values}")
    return "\n".join(lines)


SHELLS = {"bash": _bash, "zsh": _zsh, "fish": _fish}
