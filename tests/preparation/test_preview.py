"""The picture of views shows the images that the run trains on."""

import io
import shlex

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from flags.convert import parse_command_line
from tests.data.kinds import plain_decoding
from tests.support.marks import usual
from tests.support.runs import REPOSITORY, TINY, eagerly, tiny_config, write_images
from tf_simclr.config import PreviewConfig, UserError
from tf_simclr.data import BatchPlan, step_views
from tf_simclr.preparation import preview as module
from tf_simclr.preparation.preview import preview
from tf_simclr.rendering import view_grid as view_pictures
from tf_simclr.training.assembly import assemble
from tf_simclr.training.batches import training_batches, training_view

FLAGS = {"use_flip": True, "train_batch_size": 6}


@pytest.fixture
def photos(tmp_path):
    for seed, name in enumerate(("cat", "dog")):
        write_images(tmp_path / "photos" / name, 5, seed=seed)
    return tmp_path / "photos"


def preview_config(output, *arguments, **flags):
    values = TINY | FLAGS | {"mode": "preview", "output": output} | flags
    return parse_command_line([*(f"--{name}={value}" for name, value in values.items()), *arguments])[0]


def first_batch(run):
    """The views of a run's first batch, as its training step gets them; [batch, views, S, S, 3]."""
    assembly = assemble(run, 1)
    plan = BatchPlan(global_batch_size=run.train.train_batch_size)
    num_views = 2 if run.train.train_mode == "pretrain" else 1
    on_device = run.augment.augment_on == "device"
    options = {"num_views": num_views, "first_step": 0, "on_device": on_device}
    batch = next(iter(training_batches(run, assembly, plan, **options)))
    batch = step_views(assembly.source, training_view(run, on_device=on_device))(batch)
    return np.stack(batch["views"], axis=1)


def in_picture(path, *, num_images, num_views, size):
    """Cuts the views out of a picture, each pixel of theirs as one; uint8 [n, views, S, S, 3]."""
    picture = np.asarray(Image.open(path).convert("RGB"))
    scale = -(-view_pictures._LEAST_SIDE // size)
    side, gap = size * scale, view_pictures._GAP
    row_height = side + gap + view_pictures._NAME_HEIGHT
    assert picture.shape[:2] == (
        view_pictures._TITLE_HEIGHT + num_images * row_height,
        gap + (1 + num_views) * (side + gap),
    )
    cut = np.zeros([num_images, 1 + num_views, side, side, 3], np.uint8)
    for row in range(num_images):
        top = view_pictures._TITLE_HEIGHT + row * row_height + view_pictures._NAME_HEIGHT
        for column in range(1 + num_views):
            left = gap + column * (side + gap)
            cut[row, column] = picture[top : top + side, left : left + side]
    views = cut[:, 1:, ::scale, ::scale]
    np.testing.assert_array_equal(views.repeat(scale, 2).repeat(scale, 3), cut[:, 1:])
    return cut[:, 0], views


@pytest.fixture
def eager():
    """Traces next to nothing."""
    with eagerly(), plain_decoding():
        yield


@pytest.mark.slow
@pytest.mark.parametrize("augment_on", usual("device", also=["host"]))
def test_picture_shows_the_views_of_the_first_batch_and_further_ones(eager, photos, tmp_path, log, augment_on):
    path, flags = tmp_path / "out" / "views.png", {"dataset": f"folder:{photos}", "augment_on": augment_on}
    preview(preview_config(path, preview_images=4, preview_views=3, **flags))
    _, views = in_picture(path, num_images=4, num_views=3, size=8)
    expected = first_batch(tiny_config(tmp_path / "run", **(FLAGS | flags)))[:4]
    np.testing.assert_array_equal(views[:, :2], np.rint(expected * 255))
    further = np.abs(views[:, 2:].astype(int) - views[:, :2])
    assert further.max(axis=(2, 3, 4)).min() > 30
    assert "All values are in [0, 1]: 0." in log.text
    assert log.messages[-1] == f"Wrote 3 views of 4 images: {path}"


def test_finetuning_has_one_view_of_the_labelled_images_without_colours(eager, tmp_path):
    flags = {"train_mode": "finetune", "labels_per_class": 2, "augment_on": "device"}
    preview(preview_config(tmp_path / "views.png", **flags))
    _, views = in_picture(tmp_path / "views.png", num_images=8, num_views=1, size=8)
    batch = first_batch(tiny_config(tmp_path / "run", checkpoint="pretrained", **(FLAGS | flags)))
    np.testing.assert_array_equal(views[:6], np.rint(batch * 255))


def test_originals_are_the_images_of_the_views(eager, tmp_path, monkeypatch):
    """With a crop of nearly everything and no flip, a view is about the original resized.

    The data is smaller than a batch and than the picture, and an image is unreadable.
    """
    folder = write_images(tmp_path / "flat", 3)
    (folder / "001.png").write_bytes(b"")
    drawn = []
    monkeypatch.setattr(module, "plot_views", lambda *given: drawn.append(given) or view_pictures.plot_views(*given))
    flags = {"crop_min_area": 1, "random_rotation": 0, "use_flip": False, "train_batch_size": 512}
    flags |= {"dataset": f"folder:{folder}", "augment_on": "device"}
    preview(preview_config(tmp_path / "views.png", **flags))
    in_picture(tmp_path / "views.png", num_images=3, num_views=2, size=8)
    ((originals, views, names, _),) = drawn
    paths = (folder / "000.png", folder / "002.png")
    files = {str(path): tf.io.decode_png(path.read_bytes()).numpy() for path in paths}
    assert sorted(names) == [*files, f"instead of {folder / '001.png'}, unreadable"]
    for original, name, (view, _) in zip(originals, names, views, strict=True):
        assert any(np.array_equal(original, file) for file in files.values())
        np.testing.assert_array_equal(original, files.get(name, original))
        resized = [tf.image.resize(file, [8, 8], antialias=True).numpy().ravel() for file in files.values()]
        likeness = [np.corrcoef(file, view.ravel())[0, 1] for file in resized]
        np.testing.assert_array_equal(list(files.values())[np.argmax(likeness)], original)
        assert max(likeness) > 0.5


def test_original_of_any_size_has_the_place_of_a_view():
    originals = [np.full((height, width, 3), 7, np.uint8) for height, width in ((1, 700), (50, 20), (3, 2))]
    grey = np.full((8, 8, 1), 7, np.uint8)
    names = ["$1.png", "猫.png", "x" * 500, "grey"]
    png = view_pictures.plot_views([*originals, grey], np.zeros([4, 2, 8, 8, 3]), names, "A title\nof two lines")
    shown, _ = in_picture(io.BytesIO(png), num_images=4, num_views=2, size=8)
    sizes = [np.argwhere((image == 7).all(axis=-1)) for image in shown]
    extents = [tuple(np.ptp(places, axis=0) + 1) for places in sizes]
    assert extents == [(1, 160), (150, 60), (159, 106), (160, 160)]


@pytest.fixture
def no_pipeline(monkeypatch):
    """Leaves out the images: views of -1 and 2, which are out of range."""
    views = np.stack([np.full([8, 8, 3], value, np.float32) for value in (-1, 2)])[np.newaxis]
    first = module.FirstImages([np.zeros([8, 8, 1], np.uint8)], ["0.png"], views)
    monkeypatch.setattr(module, "first_images", lambda *arguments, **options: first)


def test_values_out_of_range_are_reported_and_cut_off(no_pipeline, tmp_path, log):
    preview(preview_config(tmp_path / "views.png"))
    assert "Values reach from -1.000 to 2.000, out of [0, 1]: the picture cuts them off." in log.text
    _, views = in_picture(tmp_path / "views.png", num_images=1, num_views=2, size=8)
    assert [np.unique(view).tolist() for view in views[0]] == [[0], [255]]


def test_existing_picture_is_replaced_only_on_request(no_pipeline, tmp_path):
    path = tmp_path / "views.png"
    path.write_text("mine")
    with pytest.raises(UserError) as error:
        preview(preview_config(path))
    assert str(error.value) == f"--output={path}: exists already; replace it with --overwrite=True."
    assert path.read_text() == "mine"
    preview(preview_config(path, overwrite=True))
    in_picture(path, num_images=1, num_views=2, size=8)
    with pytest.raises(UserError, match=r"^--output=.*/views.png: cannot be written \("):
        preview(preview_config(path / "views.png"))


# ---- The command line


def parse(*arguments):
    return parse_command_line(["--mode=preview", "--output=views.png", *arguments])


def test_preview_of_digits_is_that_of_their_recipe():
    run, _ = parse_command_line(["--mode=pretrain", "--dataset=digits"])
    for arguments in ([], ["--dataset=digits"]):
        config, (note,) = parse(*arguments)
        assert isinstance(config, PreviewConfig) and note.startswith("Recipe: digits")
        assert (config.model, config.augment, config.data) == (run.model, run.augment, run.data)


def test_preview_takes_the_flags_of_its_step(tmp_path):
    file = tmp_path / "own.flags"
    file.write_text("--dataset=cifar10\n--seed=3\n--finetune.crop_min_area=0.5\n")
    config, notes = parse(f"--flagfile={file}", "--train_mode=finetune", "--learning_rate=1")
    assert (config.augment.crop_min_area, config.train.seed, notes) == (0.5, 3, [])
    assert parse(f"--flagfile={file}")[0].augment.crop_min_area == 0.08


def photos_command():
    """The command of README.md for one's own images."""
    pages = (REPOSITORY / "README.md").read_text().splitlines()
    return shlex.split(next(line for line in pages if "--flagfile=photos" in line).removeprefix("tf-simclr"))


def test_preview_takes_the_command_of_the_whole_method(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    run, _ = parse_command_line(photos_command())
    config, (note,) = parse(*photos_command(), "--keep_hub_module_max=0")
    first = run.pretrain
    assert (config.model, config.data, config.train.train_mode) == (first.model, first.data, "pretrain")
    assert config.augment == first.augment
    assert note == ("Of semi_supervised, the views of pretraining; for another stage, use --train_mode=finetune.")
    config, notes = parse(*photos_command(), "--train_mode=finetune")
    assert (config.data, config.augment) == (run.finetune.data, run.finetune.augment)
    assert notes == []


def test_preview_takes_the_flags_of_a_curve_and_of_the_authors():
    curve = ("--dataset=cifar10", "--labels_per_class=2,5", "--num_seeds=2", "--efficiency_methods=distill")
    for mode in ("label_efficiency", "finetune"):
        config, notes = parse(*curve, f"--train_mode={mode}", "--train_summary_steps=5")
        assert (config.data.labels_per_class, len(notes)) == (2, mode == "label_efficiency")
    with pytest.raises(UserError, match=r"^--labels_per_class=a,2: use one whole number"):
        parse("--dataset=cifar10", "--labels_per_class=a,2")


@pytest.mark.parametrize("flag", ["--prepare_workers=1", "--benchmark_batch_size=4"])
def test_preview_refuses_flags_of_other_tools(flag):
    with pytest.raises(UserError, match=f"^{flag}: has no meaning with --mode=preview; leave it out"):
        parse("--dataset=cifar10", flag)


# ---- Pictures that are too large


@pytest.mark.parametrize(("flag", "asked", "most"), [("preview_images", 64, 61), ("preview_views", 16, 14)])
def test_picture_that_cannot_be_drawn_is_refused_before_the_data_is_opened(tmp_path, flag, asked, most):
    size = 1024 if flag == "preview_images" else 4096
    with pytest.raises(UserError) as error:
        preview(preview_config(tmp_path / "views.png", dataset="none", image_size=size, **{flag: asked}))
    message = f"--{flag}={asked}: of --image_size={size} a picture has the place for {most}; use fewer."
    assert str(error.value) == message


@pytest.mark.parametrize("size", [8, 170])
def test_one_more_row_or_view_would_not_fit(monkeypatch, size):
    monkeypatch.setattr(view_pictures, "_MAX_SIDE", 800)
    num_images, num_views = view_pictures.most_that_fit(size)

    def sides(more):
        shape = (num_images + more, num_views + more, size, size, 3)
        originals, names = [np.zeros([1, 1, 1], np.uint8)] * shape[0], ["name"] * shape[0]
        png = view_pictures.plot_views(originals, np.zeros(shape, np.float32), names, "")
        return Image.open(io.BytesIO(png)).size

    assert max(sides(0)) <= 800 < min(sides(1))
