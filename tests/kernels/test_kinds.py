"""The table by kind of the kernels' benchmark."""

from benchmarks.kinds import AXES, kinds, markdown
from benchmarks.shapes import random_points


def row_of(ours: float, **others: float) -> dict[str, object]:
    point = random_points(1, 0)[0]
    row = {"adapted": 9, "fullest": 3, "in_use": 3, "slices": point.slices, "rank": 64, "bytes_us": 1.0}
    return row | {"ours_us": ours, "floor_us": 2.0} | others


def test_every_shape_is_in_one_kind_of_each_axis() -> None:
    rows = [
        {name: getattr(point, name) for name in ("adapted", "fullest", "in_use", "slices", "rank")}
        | {"bytes_us": point.moved / 4e6}
        for point in random_points(60, 3)
    ]
    counted = [id(row) for _, inside in kinds(rows) for row in inside]
    assert sorted(counted) == sorted([id(row) for row in rows] * len(AXES))


def test_what_plain_copying_leaves_no_room_for_is_counted_among_the_missed() -> None:
    first = markdown([row_of(5.0, plain_us=3.5), row_of(5.0, plain_us=2.0), row_of(3.0, plain_us=3.5)]).splitlines()[2]
    assert first == "| all | 3 | 2.11 | 1.45 | 1.45 | 2 | 1 |"


def test_without_plain_times_nothing_is_said_of_them() -> None:
    assert markdown([row_of(5.0), row_of(2.0)]).splitlines()[2] == "| all | 2 | 1.58 | – | – | 1 | – |"
