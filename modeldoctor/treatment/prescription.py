"""What `arms: auto` takes once the diagnosis is known: the remedies that its findings prescribe."""

from __future__ import annotations

import math

from pydantic import ValidationError

from modeldoctor.config.arms import ARMS, FOR_BACKGROUNDS, PRESCRIBED
from modeldoctor.config.treat import TreatConfig
from modeldoctor.errors import UsageError
from modeldoctor.results.diagnosis import Diagnosis


def prescribed(config: TreatConfig, diagnosis: Diagnosis) -> tuple[TreatConfig, str]:
    """The configuration with the remedies that the diagnosis prescribes, and a sentence that says why.

    Remedies for a reliance on backgrounds are left out where objects were removed and that was not found. A finding
    that asks for a remedy of its own gets it, if the data allow. Arms that the user named stay as they are, and nothing
    is said.

    Raises:
        UsageError: the given rounds do not fit these remedies.
    """
    if not config.automatic:
        return config, ""
    found = {finding.name for finding in diagnosis.findings}
    idle = _objects_removed(diagnosis) and "background" not in found
    left_out = [arm for arm in config.controls if idle and (arm in FOR_BACKGROUNDS or "masks" in ARMS[arm].needs)]
    lacking = {"masks"} if config.data.masks is None else set()
    added = [arm for finding, arm in PRESCRIBED.items() if finding in found and not ARMS[arm].needs & lacking]
    remedies = [*(arm for arm in config.controls if arm not in left_out), *added]
    said = f"arms: auto takes {', '.join(remedies)}"
    said += f"; {' and '.join(added)} for what the diagnosis found" if added else ""
    said += f"; not {' and '.join(left_out)}, as no reliance on backgrounds was found" if left_out else ""
    try:
        return config.with_remedies(remedies), said
    except ValidationError as error:
        raise UsageError(
            f"rounds for other remedies than the diagnosis prescribes: {', '.join(remedies)}",
            where="arms: auto with rounds",
            expected="rounds of ever fewer remedies",
            hint="name the arms, or leave rounds out",
        ) from error


def _objects_removed(diagnosis: Diagnosis) -> bool:
    limit = math.nan if diagnosis.limits is None else diagnosis.limits.stays_without_object
    return not math.isnan(limit) or any(not math.isnan(image.without_object) for image in diagnosis.misdiagnosed)
