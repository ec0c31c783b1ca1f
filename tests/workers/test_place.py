import pytest

from lib.workers.place import WorkersPlace


def test_on_this_machine_or_on_a_cluster_s():
    assert WorkersPlace.parse("ray:2") == WorkersPlace(count=2)
    assert WorkersPlace.parse("ray://sam-head.example:10001") == WorkersPlace(address="ray://sam-head.example:10001")
    assert WorkersPlace.parse("ray://[2001:db8::1]:10001").address == "ray://[2001:db8::1]:10001"


@pytest.mark.parametrize(
    "text", ["", "2", "ray", "ray:", "ray:0", "ray:-1", "ray:two", "ray://", "ray://head", "ray:²"]
)
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match=r"must be ray:N, as in ray:2, or ray://host:port"):
        WorkersPlace.parse(text)
