from __future__ import annotations

import math

import pytest

from rlvr.errors import SandboxError
from rlvr.sandbox.fleet import Fleet, Host, HostBusyError, HostDownError, HostLostError, Trip


def fleet_of(*capacities: int) -> Fleet:
    fleet = Fleet([f"http://host{index}" for index in range(len(capacities))])
    for host, capacity in zip(fleet.hosts, capacities, strict=True):
        host.capacity = capacity
    return fleet


def taken(trip: Trip) -> Host:
    host = trip.next()
    assert host is not None
    return host


def test_jobs_go_where_there_is_least_to_do_for_its_size() -> None:
    fleet = fleet_of(2, 6)
    loads = {host.url: 0 for host in fleet.hosts}
    for _ in range(8):
        host = fleet.take()
        assert host is not None
        loads[host.url] += 1
    assert loads == {"http://host0": 2, "http://host1": 6}
    assert fleet.capacity == 8


def test_a_host_that_could_not_be_reached_is_passed_over_and_costs_no_attempt() -> None:
    fleet = fleet_of(4, 4)
    trip = Trip(fleet)
    for _ in range(5):
        host = fleet.hosts[0]
        host.in_flight += 1
        trip.failed(host, HostDownError("refused"))
    assert taken(trip) is fleet.hosts[1]


def test_a_job_whose_host_is_lost_is_tried_once_more_elsewhere_and_then_given_up() -> None:
    fleet = fleet_of(4, 4)
    trip = Trip(fleet)
    first = taken(trip)
    trip.failed(first, HostLostError("reset"))
    second = taken(trip)
    assert second is not first
    trip.failed(second, HostLostError("reset"))
    with pytest.raises(SandboxError, match=r"failed twice: http://host0: reset; then: http://host1: reset"):
        trip.next()


def test_a_host_whose_sandbox_failed_costs_an_attempt_too() -> None:
    trip = Trip(fleet_of(1, 1))
    for _ in range(2):
        trip.failed(taken(trip), SandboxError("no space"))
    with pytest.raises(SandboxError, match="no space"):
        trip.next()


def test_full_hosts_are_waited_for_and_then_named() -> None:
    fleet = fleet_of(2)
    patient, hasty = Trip(fleet), Trip(fleet, patience_s=0.0)
    for trip, host in ((patient, taken(patient)), (hasty, fleet.take())):
        assert host is not None
        trip.failed(host, HostBusyError())
    fleet.hosts[0].rests_until = math.inf
    assert patient.next() is None
    with pytest.raises(SandboxError, match=r"no sandbox host took the job within 0 s; the last time http://host0 was full"):
        hasty.next()


def test_a_cancelled_request_gives_its_host_back_at_once() -> None:
    fleet = fleet_of(1, 1)
    trip = Trip(fleet)
    host = taken(trip)
    trip.failed(host, KeyboardInterrupt())
    assert host.in_flight == 0
    assert host.rests_until == 0.0


def test_the_only_host_gets_its_second_chance_soon() -> None:
    fleet = fleet_of(1)
    trip = Trip(fleet)
    trip.failed(taken(trip), HostLostError("reset"))
    assert trip.next() is None
    fleet.hosts[0].rests_until -= 0.3
    assert taken(trip) is fleet.hosts[0]
