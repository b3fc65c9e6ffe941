"""nodes.json of a study: nodes on which a stage failed of hardware. The study's next jobs avoid them for a day.

    {"nodes": {NODE: {"time": SECONDS SINCE 1970, "reason": SENTENCE}}}
"""

import re
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from jobs.errors import StageFailed, UserError
from jobs.run.failures import read_failure
from jobs.run.records import BadNode, NodesFile
from jobs.storage.files import write_json
from jobs.storage.locks import locked
from jobs.storage.names import printable
from jobs.storage.typed import read_if_whole
from slurm.launch.profiles import Profile
from slurm.launch.sites.nodes import nodes_of

EXPIRY_S = 24 * 3600.0
SHARE = 10  # of so many nodes of the partition, one may be avoided; always one
WAIT_S = 30.0


def remember_node(run: Path) -> None:
    """Add the node to nodes.json of the study, if the last failure of `run` is one of hardware."""
    failure = read_failure(run)
    if failure is None or failure.kind != "hardware":
        return
    study = run.parent
    with suppress(OSError, UserError), locked(study / "nodes.lock", "another job writes nodes.json", wait=WAIT_S):
        found = BadNode(time.time(), failure.message)
        nodes = bad_nodes(study) | {name: found for name in failure.host.split(",") if name}
        write_json(study / "nodes.json", asdict(NodesFile(nodes)))


def bad_nodes(study: Path, remarks: list[str] | None = None) -> dict[str, BadNode]:
    """The nodes that are remembered still, oldest first; a damaged file has none, and adds a line to `remarks`."""
    found = read_if_whole(study / "nodes.json", NodesFile, [] if remarks is None else remarks)
    recent = {name: node for name, node in found.nodes.items() if 0 <= time.time() - node.time < EXPIRY_S} if found else {}
    return dict(sorted(recent.items(), key=lambda item: item[1].time))


def avoiding(profile: Profile, study: Path) -> tuple[Profile, str]:
    """`profile` with the study's bad nodes among `exclude`, and a note for the user ("" if there is nothing to avoid).

    The newest count, at most one of SHARE of the partition's nodes: a fault that follows the study through the cluster must not
    close the cluster to it. A profile that names its nodes itself (nodelist) stays as it is.
    """
    bad = [name for name in bad_nodes(study) if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}", name)]
    if not bad or profile.nodelist:
        return profile, ""
    try:
        count = len(nodes_of(profile))
    except StageFailed:
        count = 0
    avoided = bad[-max(count // SHARE, 1):]
    stages = {stage: own.model_copy(update={"exclude": _joined(own.exclude, avoided)})
              for stage, own in profile.stages if "exclude" in own.model_fields_set}
    changed = profile.model_copy(update={"exclude": _joined(profile.exclude, avoided),
                                         "stages": profile.stages.model_copy(update=stages)})
    return changed, f"jobs avoid {', '.join(avoided)}, where a stage failed of hardware ({study / 'nodes.json'})"


def _joined(excluded: str | None, nodes: Collection[str]) -> str:
    return ",".join([*([excluded] if excluded else []), *nodes])


def bad_nodes_notes(study: Path) -> list[str]:
    """Lines for `status` about nodes that new jobs avoid."""
    notes: list[str] = []
    said = []
    for name, node in bad_nodes(study, notes).items():
        until = time.strftime("%d %b %H:%M", time.localtime(node.time + EXPIRY_S))
        said.append(f"{printable(name)} until {until} ({printable(node.reason)[:200]})")
    return [*notes, f"note: new jobs avoid {'; '.join(said)}"] if said else notes
