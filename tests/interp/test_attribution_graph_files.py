"""Graphs are saved, refused where they are damaged, led to pages and written as the viewer of circuit-tracer reads them."""

import dataclasses
import json

import pytest
import torch

from cutaway import Transformer, attribution_graphs
from interp.small_transcoders import a_transcoder


def test_a_graph_is_saved_and_read(tiny_model, tokens, transcoders, graph, tmp_path):
    attribution_graphs.save_graph(graph, tmp_path / "made")
    again = attribution_graphs.load_graph(tmp_path / "made", tiny_model)
    assert again.to_json() == graph.to_json()
    assert torch.equal(again.edges, graph.edges)
    attribution_graphs.save_graph(again, tmp_path / "made")
    other = Transformer(tiny_model.config, generator=torch.Generator().manual_seed(3)).double()
    for call in (
        lambda: attribution_graphs.load_graph(tmp_path / "made", other),
        lambda: attribution_graphs.intervene(other, graph, transcoders),
    ):
        with pytest.raises(ValueError, match="the graph is of another model") as error:
            call()
        assert str(error.value).count(".") == 0
    with pytest.raises(ValueError, match="made with other transcoders"):
        attribution_graphs.intervene(tiny_model, graph, [a_transcoder(tiny_model, 0, "relu", seed=1), transcoders[1]])


def test_damaged_graphs_are_refused(tiny_model, graph, tmp_path):
    with pytest.raises(ValueError, match=r"holds no graph\.json"):
        attribution_graphs.load_graph(tmp_path, tiny_model)
    folder = attribution_graphs.save_graph(graph, tmp_path / "made")
    whole = (folder / "graph.json").read_text()
    values = json.loads(whole)
    fewer = {name: values[name][:-1] for name in ("logits", "logit_words")}
    for broken, sentence in (
        (whole[:50], "is damaged: it is not JSON"),
        ("[1]", "describes no graph"),
        (json.dumps({key: value for key, value in values.items() if key != "tokens"}), "it lacks 'tokens'"),
        (json.dumps({**values, "logits": fewer["logits"]}), "have not each a word"),
        (json.dumps({**values, **fewer}), "the shape of"),
        (json.dumps({**values, "frozen": "norms"}), "expected one of both, patterns, nothing"),
        (json.dumps({**values, "node_threshold": 2}), "expected a share, 0 to 1"),
        (json.dumps({**values, "tokens": ["a"] * len(values["tokens"])}), "expected ids of tokens"),
        (json.dumps({**values, "pos": 99}), "pos is 99"),
        (json.dumps({**values, "n_layers": 1}), "the shape of errors"),
    ):
        (folder / "graph.json").write_text(broken)
        with pytest.raises(ValueError, match=sentence):
            attribution_graphs.load_graph(folder, tiny_model)
    (folder / "graph.json").write_text(whole)
    content = (folder / "graph.safetensors").read_bytes()
    for broken, sentence in ((content[:100], "graph.safetensors"), (content[:-8], "graph.safetensors")):
        (folder / "graph.safetensors").write_bytes(broken)
        with pytest.raises(ValueError, match=sentence):
            attribution_graphs.load_graph(folder, tiny_model)
    for changed, sentence in (
        ({"edges": graph.edges * float("nan")}, "not finite"),
        ({"features": graph.features + 99}, "where the graph has no layer or position"),
    ):
        attribution_graphs.save_graph(dataclasses.replace(graph, **changed), folder)
        with pytest.raises(ValueError, match=sentence):
            attribution_graphs.load_graph(folder, tiny_model)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other things"):
        attribution_graphs.save_graph(graph, tmp_path / "taken")


def test_other_thresholds_show_the_same_graph(tiny_model, graph, tmp_path):
    strict = graph.with_thresholds(node=0.3)
    assert strict.pruned().sources.sum() < graph.pruned().sources.sum()
    assert torch.equal(strict.pruned().sources, graph.pruned(node_threshold=0.3).sources)
    assert (strict.node_threshold, strict.edge_threshold) == (0.3, graph.edge_threshold)
    assert "nodes with 30 % of the influence" in strict.summary()
    assert attribution_graphs.to_circuit_tracer(strict)["metadata"]["node_threshold"] == 0.3
    attribution_graphs.save_graph(strict, tmp_path / "made")
    assert attribution_graphs.load_graph(tmp_path / "made", tiny_model).to_json() == strict.to_json()
    with pytest.raises(ValueError, match=r"edge_threshold is 1\.5"):
        graph.with_thresholds(edge=1.5)


def test_features_lead_to_their_pages(graph, tmp_path):
    """A feature of layer 0 has a page; the report, in another folder, leads to it from its table and its figure."""
    layer, _, number = graph.features[graph.strongest_features(1)][0].tolist()
    folder = tmp_path / "pages" / f"layer-{layer:02d}"
    with pytest.raises(ValueError, match="has no page of any feature"):
        attribution_graphs.find_pages(graph, tmp_path / "pages")
    folder.mkdir(parents=True)
    (folder / f"feature-{number:06d}.html").write_text("a page")
    (folder / "feature-999999.html").write_text("no feature's")
    found = attribution_graphs.find_pages(graph, tmp_path / "pages")
    assert set(found.pages) == {(layer, number)}
    (tmp_path / "reports").mkdir()
    page = found.report(tmp_path / "reports" / "graph.html").read_text()
    href = f"../pages/layer-{layer:02d}/feature-{number:06d}.html"
    assert f'<a href="{href}">L{layer} #{number}</a>' in page
    assert f'xlink:href="{href}"' in page
    assert href not in graph.report(tmp_path / "reports" / "plain.html").read_text()
    assert "<a" not in "".join(cell for row in graph.table()[1] for cell in row)


def test_the_file_for_circuit_tracer(graph, tmp_path):
    path = attribution_graphs.write_circuit_tracer(graph, tmp_path / "a-graph.json")
    values = json.loads(path.read_text())
    assert values.keys() == {"metadata", "qParams", "nodes", "links"}
    assert values["metadata"]["slug"] == "a-graph"
    assert values["metadata"]["prompt_tokens"] == list(graph.words)
    assert set(values["qParams"]) == {"pinnedIds", "supernodes", "linkType", "clickedId", "sg_pos"}
    nodes = {node["node_id"]: node for node in values["nodes"]}
    assert len(nodes) == len(values["nodes"])
    assert {link[end] for link in values["links"] for end in ("source", "target")} <= nodes.keys()
    kept = graph.pruned()
    assert len(values["links"]) == kept.edges.sum()
    places = {node: place for place, node in enumerate(graph.nodes)}
    feature = next(node for node in graph.nodes if node.kind == "feature" and kept.sources[places[node]])
    written = nodes[f"{feature.layer}_{feature.number}_{feature.pos}"]
    assert written["activation"] == graph.activations[places[feature]].item()
    pair = feature.layer + feature.number
    assert written["feature"] == pair * (pair + 1) // 2 + feature.number
    assert (written["layer"], written["ctx_idx"], written["feature_type"]) == (
        str(feature.layer), feature.pos, "cross layer transcoder",
    )  # fmt: skip
    logit = nodes[f"3_{graph.logits[0]}_8"]
    assert (logit["layer"], logit["is_target_logit"], logit["token_prob"]) == ("3", True, graph.probs[0].item())
    weight = next(
        link["weight"] for link in values["links"] if link["target"] == logit["node_id"] and link["source"].startswith("E_")
    )
    assert weight in graph.edges[graph.n_features].tolist()


TYPES = {"cross layer transcoder", "mlp reconstruction error", "embedding", "logit"}
FIELDS = {
    "node_id": str, "feature": int, "layer": str, "ctx_idx": int, "feature_type": str, "token_prob": float, "is_target_logit": bool,
    "run_idx": int, "reverse_ctx_idx": int, "jsNodeId": str, "clerp": str, "influence": float | None, "activation": float | None,
}  # fmt: skip


def test_every_field_is_as_the_viewer_reads_it(graph):
    """What its code takes for granted of a file, node by node, where a mistake would show as an empty page."""
    values = attribution_graphs.to_circuit_tracer(graph, slug="x")
    metadata, nodes = values["metadata"], {node["node_id"]: node for node in values["nodes"]}
    assert {name for name in metadata if name != "cutaway"} == {
        "slug", "scan", "transcoder_list", "prompt_tokens", "prompt", "node_threshold", "schema_version",
    }  # fmt: skip
    assert metadata["schema_version"] == 1  # features are paired numbers
    assert not metadata["scan"].startswith("custom-")  # whose transcoders would be looked for by layer
    js_ids: dict[str, set[tuple]] = {}
    for node in values["nodes"]:
        assert node.keys() == FIELDS.keys()
        assert all(isinstance(node[name], kind) for name, kind in FIELDS.items())
        assert node["feature_type"] in TYPES
        assert 0 <= node["ctx_idx"] < len(metadata["prompt_tokens"])
        assert (node["layer"] == "E") == (node["feature_type"] == "embedding")
        assert node["layer"] == "E" or 0 <= int(node["layer"]) <= graph.n_layers + 1
        assert (node["influence"] is None) == (node["feature_type"] == "logit")  # what the slider hides by
        assert node["influence"] is None or 0 < node["influence"] <= 1 + 1e-12
        js_ids.setdefault(node["jsNodeId"], set()).add((node["layer"], node["feature"], node["feature_type"]))
        _, number, pos = node["node_id"].split("_")
        assert int(pos) == node["ctx_idx"]
        if node["feature_type"] == "cross layer transcoder":
            root = int(((8 * node["feature"] + 1) ** 0.5 - 1) // 2)  # the pairing undone
            found = node["feature"] - root * (root + 1) // 2
            assert (root - found, found) == (int(node["layer"]), int(number))
            assert node["clerp"] == f"#{number}"
            assert node["activation"] > 0
        if node["feature_type"] == "logit":
            word, probability = node["clerp"].split('"')[1], node["clerp"].split("(p=")[1].split(")")[0]
            assert word == graph.logit_words[graph.logits.index(int(number))]
            assert float(probability) == pytest.approx(node["token_prob"], abs=5e-4)
    assert all(len(each) == 1 for each in js_ids.values())  # one name never stands for two things
    assert sum(node["is_target_logit"] for node in nodes.values()) == 1
    for link in values["links"]:
        assert link.keys() == {"source", "target", "weight"}
        source, target = nodes[link["source"]], nodes[link["target"]]
        assert source["ctx_idx"] <= target["ctx_idx"]
        assert source["feature_type"] != "logit"
        assert target["feature_type"] in ("cross layer transcoder", "logit")
        assert source["layer"] == "E" or int(source["layer"]) < int(target["layer"])
        assert link["weight"] != 0
    named = attribution_graphs.to_circuit_tracer(
        graph, names={tuple(graph.features[graph.strongest_features(1)][0, [0, 2]].tolist()): "king"}
    )
    assert any(node["clerp"].endswith(" king") for node in named["nodes"])


def test_the_viewer_finds_the_graphs_of_a_folder(graph, tmp_path):
    for name in ("one", "two", "one"):
        path = attribution_graphs.write_circuit_tracer(graph, tmp_path / f"{name}.json", scan=f"scan of {name}")
    listed = json.loads((tmp_path / "graph-metadata.json").read_text())["graphs"]
    assert [each["slug"] for each in listed] == ["two", "one"]
    assert listed[1] == json.loads(path.read_text())["metadata"]
    before = path.read_text()
    for name, content, sentence in (
        ("graph.txt", None, r"ends in \.json"),
        ("graph-metadata.json", None, "give the graph another name"),
        ("nowhere/graph.json", None, "there is no folder"),
        ("one.json", "[]", "is no list of graphs"),
        ("one.json", '{"graphs": [3]}', "is no list of graphs"),
    ):
        if content is not None:
            (tmp_path / "graph-metadata.json").write_text(content)
        with pytest.raises(ValueError, match=sentence):
            attribution_graphs.write_circuit_tracer(graph, tmp_path / name)
    assert path.read_text() == before
