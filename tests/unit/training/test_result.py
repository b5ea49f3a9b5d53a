from matplotlib.figure import Figure

from muomni_search.training.result import draw_curves

LOG = [
    {
        "step": step,
        "loss": 6 / step,
        "contrastive": 4 / step,
        "teacher_image": 2 / step,
        "rate": 0.001,
        "held_out": {
            "cosine_text": step / 4,
            "text→image": {"queries": 9, "success@1": 0.0, "success@10": step / 8, "mrr": 0.1},
        },
    }
    for step in (2, 4)
]


def lines(axes):
    return {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in axes.lines}


def test_the_curves_are_the_losses_and_what_was_found_step_by_step(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    draw_curves(LOG, tmp_path / "curves.png")
    losses, found = drawn[0].axes
    assert lines(losses) == {
        "loss": [(2, 3), (4, 1.5)],
        "contrastive": [(2, 2), (4, 1)],
        "teacher image": [(2, 1), (4, 0.5)],
    }
    assert lines(found) == {
        "cosine with the teacher, text": [(2, 0.5), (4, 1)],
        "text→image success@10": [(2, 0.25), (4, 0.5)],
    }
    for axes in (losses, found):
        told = {text.get_text() for text in axes.get_legend().get_texts()}
        assert told == lines(axes).keys()
