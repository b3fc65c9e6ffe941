"""Any text in a spec file makes runs or a complaint, without torch."""

import subprocess
import sys

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paths import ROOT
from spec_files import SMALLEST

from jobs.errors import UserError
from jobs.kinds.diffusion.sections import DiffusionSpec
from jobs.spec.keys import keys_of
from jobs.spec.reading.file import load

KEYS = keys_of(DiffusionSpec)
YAML_VALUES = st.one_of(st.text("a1-:.{}[],'\"&*!#|> \n\t%@\\~<", max_size=12), st.integers().map(str),
                        st.floats().map(str),
                        st.sampled_from(["null", "true", "[1, x]", "{a: 1}", "1e999", "9" * 5000]))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from([key for key in KEYS if key not in ("diffusion.diffusion_steps", "train.batch_size")]),
       value=YAML_VALUES)
def test_any_value_of_any_field_makes_a_spec_or_a_complaint(write, key, value):
    path = write(SMALLEST)
    try:
        load(path, [f"{key}={value}"])
    except UserError as error:
        assert str(error).startswith(("command line: ", "x.yaml"))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text("ab:1-{}[],'\"&*!#|> \n\t%@\\~<", max_size=40), cut=st.integers(0, len(SMALLEST)))
def test_any_text_makes_a_spec_or_a_complaint(write, text, cut):
    path = write(SMALLEST[:cut] + text + SMALLEST[cut:])
    try:
        load(path)
    except UserError as error:
        assert str(error).startswith("x.yaml")


def test_reading_specs_does_not_import_torch(write):
    write(SMALLEST)
    code = "import sys; from jobs.spec.reading.file import load; load('x.yaml'); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
