"""The prices file: what comes with the package, a file of one's own, and everything that may be wrong in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from graftwork.errors import NotFound, SettingsInvalid
from graftwork.prices import HERE, packaged_text, read_prices


def test_what_comes_with_the_package_says_where_it_is_from() -> None:
    prices = read_prices()
    assert list(prices.hardware) == ["here", "cpu-c7i", "t4", "a10", "l4", "a100", "h100"]
    assert prices.hardware[HERE].hourly is None
    for name, one in prices.hardware.items():
        if name != HERE:
            assert one.hourly is not None
            assert one.price_source
            assert one.peak_source
            assert one.flops_per_second == pytest.approx((one.peak_tflops or 0) * 1e12 * one.utilisation)
    assert "EDIT THESE" in packaged_text()


def test_a_price_is_a_share_of_an_hour(tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text("date: 2026-01-02\nhardware: {here: {title: mine, hourly: 7.2}}\n")
    prices = read_prices(file)
    assert prices.hardware[HERE].price(50) == pytest.approx(0.1)
    assert (prices.date.isoformat(), prices.currency) == ("2026-01-02", "USD")


def test_every_mistake_is_listed(tmp_path: Path) -> None:
    content = yaml.safe_load(packaged_text())
    content["hardware"]["t4"] |= {"hourly": -1, "utilisation": 3, "dtype": "int4"}
    content["hardware"]["l4"] |= {"hourl": 1}
    content["date"] = "soon"
    file = tmp_path / "prices.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(SettingsInvalid) as caught:
        read_prices(file)
    assert {problem.where for problem in caught.value.problems} == {
        "date",
        "hardware.t4.hourly",
        "hardware.t4.utilisation",
        "hardware.t4.dtype",
        "hardware.l4.hourl",
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hardware: [", "cannot be read"),
        ("- 1", "cannot be used"),
        ("date: 2026-01-02\nhardware: {t4: {title: T4, hourly: 1}}", "peak_tflops is missing"),
        ("date: 2026-01-02\nhardware: {here: {title: x, hourly: .nan}}", "cannot be used"),
    ],
)
def test_a_file_that_holds_no_prices_is_told(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text(text)
    with pytest.raises(SettingsInvalid) as caught:
        read_prices(file)
    assert said in str(caught.value)
    assert "--show-prices" in caught.value.remedy


def test_a_missing_file_and_unknown_hardware_are_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="cannot be read"):
        read_prices(tmp_path / "none.yaml")
    with pytest.raises(NotFound, match="b200, tpu") as caught:
        read_prices().chosen(["t4", "b200", "tpu"])
    assert "a100" in caught.value.remedy
