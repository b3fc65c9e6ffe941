"""The advice of `iddpm tensorboard`: a tunnel that ends where TensorBoard listens."""

import pytest

from slurm.cli.tensorboard import ssh_hint

SSH = {"SSH_CONNECTION": "192.0.2.7 51000 198.51.100.1 22", "USER": "alice"}
SSH6 = {"SSH_CONNECTION": "2001:db8::7 51000 2001:db8::1 2222", "USER": "alice"}
JOB = {"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n1", "SLURM_SUBMIT_HOST": "login1"}


@pytest.mark.parametrize(("environment", "command"), [
    (SSH, "ssh -N -L 6006:localhost:6006 alice@198.51.100.1"),
    (SSH6, "ssh -N -L 6006:localhost:6006 -p 2222 alice@2001:db8::1"),
    (SSH | {"USER": ""}, "ssh -N -L 6006:localhost:6006 198.51.100.1"),
    (SSH | {"USER": "", "LOGNAME": "bob"}, "ssh -N -L 6006:localhost:6006 bob@198.51.100.1"),
    (SSH | JOB, "ssh -N -L 6006:localhost:6006 -J alice@198.51.100.1 alice@n1"),
    (SSH6 | JOB, "ssh -N -L 6006:localhost:6006 -J alice@[2001:db8::1]:2222 alice@n1"),
    (JOB | {"USER": "alice"}, "ssh -N -L 6006:localhost:6006 -J alice@login1 alice@n1"),
    (JOB, "ssh -N -L 6006:localhost:6006 -J login1 n1"),
    (SSH | {"SLURM_JOB_ID": "7"}, "ssh -N -L 6006:localhost:6006 alice@198.51.100.1")])  # salloc's shell on the login node
def test_the_tunnel_leads_to_where_tensorboard_listens(environment, command):
    tunnel, browser = ssh_hint(6006, environment)
    assert tunnel == f"on your own machine:    {command}" and browser.endswith("http://localhost:6006")


def test_vs_code_forwards_by_itself():
    first, tunnel, _ = ssh_hint(6007, SSH | {"TERM_PROGRAM": "vscode"})
    assert first == "in VS Code: it forwards port 6007 by itself (panel Ports), or" and "-L 6007:localhost:6007" in tunnel
    assert "-J" in ssh_hint(6007, SSH | JOB | {"TERM_PROGRAM": "vscode"})[0]  # VS Code's tunnel ends on the login node


@pytest.mark.parametrize("connection", ["", "a b c", "a b c d e"])
def test_no_advice_where_ssh_says_nothing(connection):
    assert ssh_hint(6006, {"SSH_CONNECTION": connection} if connection else {}) == []
