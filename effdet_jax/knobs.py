"""Help with config keys: what there are, and what was meant by one that isn't there."""

import ast
import difflib
import inspect
import io
import textwrap
import tokenize

from effdet_jax.config import flatten, get_config
from effdet_jax.synonyms import ADVICE, KEYS

# Of 0 … 1 by difflib: 'learning_rat' is meant, 'num_steps' by 'num_classes' isn't.
LIKENESS = 0.8


def help_on_key(typed: str) -> str:
    """What to type instead of an unknown key: 'Did you mean …?', advice, or where all are listed."""
    word = typed.lower().replace("-", "_")
    for candidate in (word, word.rsplit(".", 1)[-1]):
        if candidate in KEYS:
            return f"Here it is --config.{KEYS[candidate]}=…"
        if candidate in ADVICE:
            return f"There is none: {ADVICE[candidate]}"
    if nearest := nearest_key(typed):
        return f"Did you mean --config.{nearest}?"
    return "Every key is listed by: python -m effdet_jax.train --help"


def nearest_key(typed: str) -> str:
    """The known key most like a misspelt one: by its whole path, or by its last part alone.

    '' if none is like it.
    """
    keys = list(flatten(get_config()))
    # Of two with the same last part, the first: 'batch_size', not 'eval.batch_size'.
    by_last_part = {known.rsplit(".", 1)[-1]: known for known in reversed(keys)}
    last = typed.rsplit(".", 1)[-1]
    if last in by_last_part:
        return by_last_part[last]
    if close := difflib.get_close_matches(typed, keys, n=1, cutoff=LIKENESS):
        return close[0]
    close = difflib.get_close_matches(last, by_last_part, n=1, cutoff=LIKENESS)
    return by_last_part[close[0]] if close else ""


def knob_lines() -> list[str]:
    """A line per knob, as it is written in `config.get_config`: flag, default, comment."""
    source = textwrap.dedent(inspect.getsource(get_config))
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    lines = []
    for statement in ast.parse(source).body[0].body:
        if not isinstance(statement, ast.Assign) or isinstance(statement.targets[0], ast.Name):
            continue
        numbers = range(statement.lineno, statement.end_lineno + 1)
        comment = " ".join(comments[number] for number in numbers if number in comments)
        flag = f"--{ast.unparse(statement.targets[0])}"
        if isinstance(statement.value, ast.Call):  # A section of its own.
            lines += ["", f"{flag}.*" + (f": {comment}" if comment else "")]
        else:
            flag += f"={ast.unparse(statement.value)}"
            lines.append(f"  {flag:44s}  {comment}".rstrip())
    return lines
