"""Ports are kept, and chosen again if somebody else has them."""

import json
import socket
from pathlib import Path

from hybrid_executor.standalone.stack.ports import CHOICES, choose_port
from hybrid_executor.standalone.stack.state import assign_ports
from hybrid_executor.standalone.stack.supervisor import backoff_s


def listening() -> socket.socket:
    server = socket.socket()
    server.bind(("127.0.0.1", choose_port()))
    server.listen()
    return server


def test_a_port_in_use_is_chosen_again_and_said(tmp_path: Path) -> None:
    with listening() as server:
        busy = server.getsockname()[1]
        ports, moved = assign_ports(tmp_path, {"airflow": busy, "flower": None})
    assert ports["airflow"] != busy
    assert moved == [f"port {busy} is in use: airflow takes {ports['airflow']}"]


def test_the_next_start_takes_the_same_ports(tmp_path: Path) -> None:
    first, _ = assign_ports(tmp_path, {"airflow": None, "flower": None})
    again, moved = assign_ports(tmp_path, {"airflow": None, "flower": None})
    assert (again, moved) == (first, [])
    assert json.loads((tmp_path / "ports.json").read_text()) == first


def test_two_servers_never_get_one_port(tmp_path: Path) -> None:
    port = choose_port()
    ports, _ = assign_ports(tmp_path, {"airflow": port, "flower": port})
    assert len(set(ports.values())) == 2


def test_chosen_ports_are_below_those_of_outgoing_connections() -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert CHOICES.stop <= first


def test_rests_between_restarts_grow_and_have_an_end() -> None:
    assert [backoff_s(deaths) for deaths in (1, 2, 3, 9)] == [0.5, 1.0, 2.0, 15.0]
