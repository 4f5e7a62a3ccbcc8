"""Plots: files are what their names say, hold what was measured, and cope with whatever is stored."""

from __future__ import annotations

import math
import re
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest

import moorage
from moorage.errors import InvalidArgument, MissingExtra

pytest.importorskip("matplotlib")

from moorage import plots
from moorage.plots import Kind, charts, study

if TYPE_CHECKING:
    from pathlib import Path

SVG = "{http://www.w3.org/2000/svg}"
COMPLETED = 30


def evaluated(params: dict[str, object], objective: float) -> moorage.Trial:
    return moorage.Trial(params=params, status="completed", results={"objective": objective})


def fill(storage: moorage.Storage) -> moorage.Experiment:
    experiment = storage.create_experiment(
        name="digits",
        space={
            "lr": "loguniform(1e-5, 1)",
            "layers": "uniform(1, 8, discrete=True)",
            "act": "choices(['relu', 'tanh'])",
        },
    )
    trials = [
        moorage.Trial(
            params={"lr": 10 ** -(1 + place / 8), "layers": 1 + place % 8, "act": ("relu", "tanh")[place % 2]},
            status="completed",
            results={"objective": 0.1 + abs(place - 20) / 50},
        )
        for place in range(COMPLETED)
    ]
    broken = moorage.Trial(params={"lr": 0.5, "layers": 1, "act": "relu"}, status="broken")
    storage.register_trials(experiment, [*trials, broken, {"lr": 0.25, "layers": 1, "act": "relu"}])
    for trial in trials:
        storage.add_measurements(
            trial,
            [{"name": "loss", "step": step, "value": 1 / (step + 1)} for step in range(5)],
            experiment_uid=experiment,
        )
    return experiment


@pytest.fixture
def storage() -> moorage.Storage:
    return moorage.connect("memory://")


def group(path: Path, identifier: str) -> ElementTree.Element:
    found = [one for one in ElementTree.parse(path).iter(f"{SVG}g") if one.get("id") == identifier]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("kind", list(Kind))
def test_pictures_have_the_promised_size(storage: moorage.Storage, tmp_path: Path, kind: Kind) -> None:
    path = plots.save(storage, fill(storage), tmp_path / f"{kind}.png", kind=kind)
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    assert (width, height) == (1200, 800) or kind is Kind.ALL
    assert list(tmp_path.iterdir()) == [path]


def test_the_history_has_a_point_for_each_trial(storage: moorage.Storage, tmp_path: Path) -> None:
    path = plots.save(storage, fill(storage), tmp_path / "history.svg", kind="history")
    assert len(list(group(path, "moorage-history").iter(f"{SVG}use"))) == COMPLETED


def test_slices_have_a_point_for_each_trial_and_param(storage: moorage.Storage, tmp_path: Path) -> None:
    path = plots.save(storage, fill(storage), tmp_path / "slices.svg", kind="slices")
    for place in range(3):
        assert len(list(group(path, f"moorage-slice-{place}").iter(f"{SVG}use"))) == COMPLETED


def test_lines_are_drawn_for_each_trial_but_the_best(storage: moorage.Storage, tmp_path: Path) -> None:
    experiment = fill(storage)
    for kind in ("parallel", "curves"):
        path = plots.save(storage, experiment, tmp_path / f"{kind}.svg", kind=kind)
        drawn = group(path, f"moorage-{kind}")
        assert len([one for one in drawn.iter(f"{SVG}path") if one.get("clip-path")]) == COMPLETED - 1


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name in ("src", "href", "xlink:href", "action", "srcset"):
                self.references.append(value or "")


def test_the_page_stands_by_itself(storage: moorage.Storage, tmp_path: Path) -> None:
    path = plots.save(storage, fill(storage), tmp_path / "digits.html")
    text = path.read_text()
    page = _Page()
    page.feed(text)
    assert page.tags.count("svg") == 4
    assert len(re.findall(r"<tr>", text)) == 11
    assert not {"script", "link", "iframe", "img", "object"} & set(page.tags)
    assert all(one.startswith(("#", "data:")) for one in page.references)
    assert "url(http" not in text
    assert "@import" not in text
    assert {one[1:] for one in page.references if one.startswith("#")} <= set(page.ids)
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(page.ids)


def test_names_are_neither_markup_nor_mathematics(storage: moorage.Storage, tmp_path: Path) -> None:
    name = "<script>alert(1)</script> $x_1$ & \x1b[31m"
    experiment = storage.create_experiment(name=name)
    trials = [
        moorage.Trial(
            params={name: place / 2, "$\\frac$": f"<i>{place}</i>"}, status="completed", results={"objective": 1.0}
        )
        for place in range(3)
    ]
    storage.register_trials(experiment, trials)
    text = plots.save(storage, experiment, tmp_path / "page.html").read_text()
    assert "<script" not in text
    assert "<i>1</i>" not in text
    assert "&lt;i&gt;1&lt;/i&gt;" in text
    assert "\x1b" not in text
    plots.save(storage, experiment, tmp_path / "page.png")
    assert charts.text("a$b$") == r"a\$b\$"


@pytest.mark.parametrize("kind", list(Kind))
def test_an_experiment_without_results_is_drawn(storage: moorage.Storage, tmp_path: Path, kind: Kind) -> None:
    experiment = storage.create_experiment(name="empty")
    plots.save(storage, experiment, tmp_path / "empty.png", kind=kind)
    plots.save(storage, experiment, tmp_path / "empty.html", kind=kind)
    storage.register_trials(
        experiment,
        [moorage.Trial(params={"x": 1}, status="completed", results={"objective": math.nan})],
    )
    plots.save(storage, experiment, tmp_path / "nan.png", kind=kind)
    storage.register_trials(experiment, [evaluated({"y": None}, 3)])
    plots.save(storage, experiment, tmp_path / "one.png", kind=kind)


@pytest.mark.parametrize("maximize", [False, True])
def test_outliers_stay_on_the_page_as_marks(storage: moorage.Storage, tmp_path: Path, maximize: bool) -> None:
    experiment = storage.create_experiment(name="outliers")
    far = -1e9 if maximize else 1e9
    objectives = [math.sin(place) for place in range(60)] + [far, math.inf, -math.inf, 1e308]
    storage.register_trials(
        experiment,
        [
            moorage.Trial(params={"x": place}, status="completed", results={"objective": value})
            for place, value in enumerate(objectives)
        ],
    )
    read = study.read(storage, experiment, maximize=maximize)
    assert (len(read.completed), read.omitted) == (61, 3)
    assert read.best is not None
    assert abs(read.objectives[read.best]) <= 1
    plots.save(storage, experiment, tmp_path / "outliers.png", maximize=maximize)


def test_scales_follow_the_space(storage: moorage.Storage) -> None:
    read = study.read(storage, fill(storage))
    lr, layers, act = read.dimensions
    assert (lr.logarithmic, layers.logarithmic) == (True, False)
    assert act.categories == ("relu", "tanh")
    assert [act.position("tanh"), act.position("other"), lr.position(0.1), lr.position(-1.0)] == [1.0, None, 0.1, None]


def test_only_the_last_attempt_of_a_step_is_drawn(storage: moorage.Storage) -> None:
    experiment = storage.create_experiment(name="again")
    storage.register_trial(experiment, {"x": 1})
    for values in ((1.0, 2.0, 3.0), (10.0, 20.0)):
        trial = storage.reserve_trial(experiment)
        assert trial is not None
        storage.add_measurements(
            trial, [{"name": "loss", "step": step, "value": value} for step, value in enumerate(values)]
        )
        storage.set_trial_status(trial, "suspended")
    (curve,) = study.read(storage, experiment).curves["loss"]
    assert (curve.steps, curve.values) == ((0, 1, 2), (10.0, 20.0, 3.0))


def test_params_are_chosen_by_name(storage: moorage.Storage, tmp_path: Path) -> None:
    experiment = fill(storage)
    read = study.read(storage, experiment, params=["act"])
    assert [one.name for one in read.dimensions] == ["act"]
    with pytest.raises(InvalidArgument, match="Did you mean 'layers'"):
        plots.save(storage, experiment, tmp_path / "x.png", params=["layer"])


def test_too_many_params_are_left_out(storage: moorage.Storage, tmp_path: Path) -> None:
    experiment = storage.create_experiment(name="wide")
    storage.register_trials(
        experiment,
        [
            moorage.Trial(
                params={f"p{n}": place * n for n in range(20)}, status="completed", results={"objective": place}
            )
            for place in range(5)
        ],
    )
    read = study.read(storage, experiment)
    assert (len(read.dimensions), read.hidden) == (12, 8)
    plots.save(storage, experiment, tmp_path / "wide.png")


def test_many_trials_become_pixels_in_an_svg(storage: moorage.Storage, tmp_path: Path) -> None:
    experiment = storage.create_experiment(name="many")
    storage.register_trials(
        experiment,
        [
            moorage.Trial(params={"x": place}, status="completed", results={"objective": math.sin(place)})
            for place in range(3000)
        ],
    )
    path = plots.save(storage, experiment, tmp_path / "many.svg", kind="history")
    assert path.stat().st_size < 1_000_000
    assert "data:image/png" in path.read_text()


def test_drawings_are_the_same_each_time(storage: moorage.Storage, tmp_path: Path) -> None:
    experiment = fill(storage)
    first = plots.save(storage, experiment, tmp_path / "a.svg").read_bytes()
    assert plots.save(storage, experiment, tmp_path / "b.svg").read_bytes() == first


def test_what_cannot_be_drawn_is_refused(storage: moorage.Storage, tmp_path: Path) -> None:
    experiment = fill(storage)
    with pytest.raises(InvalidArgument, match=r"\.png, \.svg, \.pdf, \.html"):
        plots.save(storage, experiment, tmp_path / "x.gif")
    with pytest.raises(InvalidArgument, match="kind must be one of"):
        plots.save(storage, experiment, tmp_path / "x.png", kind="pie")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_matplotlib_names_the_extra(
    storage: moorage.Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=r'pip install "moorage\[plot\]"'):
        plots.save(storage, fill(storage), tmp_path / "x.png")


def test_a_figure_for_a_notebook(storage: moorage.Storage) -> None:
    figure = plots.figure(storage, fill(storage), kind="slices")
    assert len([axes for axes in figure.axes if axes.get_xlabel()]) == 3
