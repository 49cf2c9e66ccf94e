"""What a person is shown of a failed run: what broke, the story of what it is about, and how to see it again."""

import re
import traceback
from pathlib import Path

from .run import Result

_ABOUT = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}|u\d+-\d+")


def story_of(result: Result, folder: Path) -> str:
    """Text for the terminal; writes the scenario into `folder`."""
    error = result.error
    if error is None:
        return f"seed {result.scenario.seed} holds."
    path = folder / f"simulation-{result.scenario.seed}.json"
    path.write_text(result.scenario.print() + "\n")
    about = tuple(dict.fromkeys(_ABOUT.findall(str(error))))
    ids = tuple(one for one in about if "-7" in one) or about
    trace = "".join(traceback.format_exception(error, limit=-6))
    return "\n".join(
        (
            *result.story.of(*ids),
            "",
            trace,
            f"seed {result.scenario.seed}, after {result.virtual_s / 60:.1f} virtual minutes: {error}",
            f"again: python -m tests.simulation --replay {path}",
        )
    )
