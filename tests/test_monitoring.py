"""`docs/monitoring.md` and the dashboard name the metrics that there are, with the labels that they have."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from shared.config import Config
from supervisor.exposition import Histogram
from supervisor.metrics import MAX_MODELS, Metrics

DOCS = Path(__file__).parents[1] / "docs"
GUIDE = (DOCS / "monitoring.md").read_text()
DASHBOARD: dict[str, Any] = json.loads((DOCS / "grafana.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
FAMILIES = {family.name: family for family in Metrics(Config()).families}
FOREIGN = {"up"}
"""What Prometheus itself adds."""

NAME = re.compile(r"\b(?:gen_ai_(?:client|server)|kimi_proxy)_\w+")


def labels_of_samples() -> dict[str, set[str]]:
    """The names that queries may use, each with the labels that it has."""
    found: dict[str, set[str]] = {name: {"job"} for name in FOREIGN}
    for family in FAMILIES.values():
        if isinstance(family, Histogram):
            found[f"{family.name}_bucket"] = {*family.labels, "le"}
            found |= {f"{family.name}_{part}": set(family.labels) for part in ("sum", "count")}
        else:
            found[family.name] = set(family.labels)
    return found


def queries() -> list[str]:
    """Every query in the dashboard and in the guide."""
    found = [target["expr"] for panel in PANELS for target in panel["targets"]]
    found += [annotation["expr"] for annotation in DASHBOARD["annotations"]["list"]]
    for block in re.findall(r"(?ms)^```promql\n(.*?)^```", GUIDE):
        found += [line for line in block.splitlines() if line and not line.startswith("#")]
    return found + alerts()


def alerts() -> list[str]:
    """The conditions of the guide's alerts."""
    conditions = re.findall(r"expr: (?:\|\n +)?(.*?)\n(?= +for:| +- alert|```)", GUIDE, re.DOTALL)
    return [re.sub(r"\s+", " ", condition) for condition in conditions]


def test_the_table_of_metrics():
    section = GUIDE.partition("## Metrics")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("| `")]
    said = {row[0].strip("`"): (row[1], tuple(re.findall(r"`(\w+)`", row[2]))) for row in rows}
    assert said == {name: (family.kind, family.labels) for name, family in FAMILIES.items()}
    assert len(rows) == len(said)
    assert list(said) == list(FAMILIES)
    assert f"the first {MAX_MODELS} do" in section


def test_the_scrape_example_needs_no_file_that_may_not_be_there():
    example = GUIDE.partition("```yaml\n")[2].partition("```")[0]
    assert example.startswith("scrape_configs:")
    assert [line for line in example.splitlines() if "_file:" in line and not line.lstrip().startswith("#")] == []


def test_there_are_queries_to_check():
    assert len(queries()) > 50
    assert len(alerts()) == GUIDE.count("- alert:")


@pytest.mark.parametrize("query", queries())
def test_queries_name_what_there_is(query):
    there_are = labels_of_samples()
    assert query.count("(") == query.count(")")
    names = [
        name for name in NAME.findall(query) if name not in {label for some in there_are.values() for label in some}
    ]
    assert names or "up{" in query
    assert set(names) <= set(there_are), set(names) - set(there_are)
    known = set.union(*(there_are[name] for name in names)) if names else {"job"}
    for name, selector in re.findall(r"(\w+)\{([^}]*)\}", query):
        assert set(re.findall(r"(\w+)(?:=~|!~|!=|=)", selector)) <= there_are[name], selector
    for labels in re.findall(r"\bby \(([^)]*)\)", query):
        assert {label.strip() for label in labels.split(",")} <= known, labels
    # Only counters have a rate, and a counter's own value is of no use.
    for name, family in FAMILIES.items():
        for use in re.findall(rf"(\w*\()?\b{name}(?:_bucket|_sum|_count)?\b(?!_)", query):
            if use in ("rate(", "increase("):
                assert family.kind in ("counter", "histogram"), name


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_legends_name_labels_that_there_are(panel):
    there_are = labels_of_samples()
    for target in panel["targets"]:
        known = set.union(*(there_are.get(name, set()) for name in NAME.findall(target["expr"])))
        grouped = {
            label.strip() for labels in re.findall(r"\bby \(([^)]*)\)", target["expr"]) for label in labels.split(",")
        }
        used = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        assert used <= (grouped or known), target


def test_every_metric_is_on_the_dashboard():
    text = " ".join(queries())
    assert [name for name in FAMILIES if not re.search(rf"\b{name}(_bucket)?\b", text)] == []


def test_panels_lie_side_by_side():
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


def test_the_dashboard_asks_the_chosen_prometheus():
    for panel in PANELS:
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    names = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(?!__)(\w+)", json.dumps(DASHBOARD)))
    assert used == names
