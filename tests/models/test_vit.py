import pytest
import torch
from gradients import unreached

from attn_core.models.vit import ViT
from attn_core.training import train

POOLS = ["class", "mean"]


def make_model(pool="class", **options):
    torch.manual_seed(0)
    return ViT(8, 2, 3, 5, dim=16, heads=4, layers=2, pool=pool, **options).eval()


def images(batch=4, seed=0):
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_patches_stand_row_by_row_and_hold_their_own_pixels():
    pictures = images()
    patches = make_model().patches(pictures)
    assert patches.shape == (4, 16, 3 * 2 * 2)
    for row in range(4):
        for column in range(4):
            square = pictures[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert torch.equal(patches[:, 4 * row + column], square.flatten(1))


@pytest.mark.parametrize(("pool", "tokens"), [("class", 17), ("mean", 16)])
def test_shapes(pool, tokens):
    model = make_model(pool)
    assert model.states(images()).shape == (4, tokens, 16)
    assert model(images()).shape == (4, 5)


def test_what_is_summed_up():
    pictures = images()
    by_class, by_mean = make_model("class"), make_model("mean")
    first, mean = by_class.states(pictures)[:, 0], by_mean.states(pictures).mean(1)
    torch.testing.assert_close(by_class(pictures), by_class.output(first))
    torch.testing.assert_close(by_mean(pictures), by_mean.output(mean))


@pytest.mark.parametrize("pool", POOLS)
def test_an_image_alone_is_an_image_in_a_batch(pool):
    model = make_model(pool).double()
    pictures = images().double()
    alone = torch.cat([model(picture[None]) for picture in pictures])
    torch.testing.assert_close(alone, model(pictures))


@pytest.mark.parametrize("pool", POOLS)
def test_without_positions_the_order_of_the_patches_does_not_matter(pool):
    model = make_model(pool).double()
    pictures = images().double()
    swapped = pictures.roll(4, dims=-1)  # whole patches change places
    assert not torch.allclose(model(swapped), model(pictures))
    torch.nn.init.zeros_(model.position.weight)
    torch.testing.assert_close(model(swapped), model(pictures))


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_gradients_reach_every_parameter(pool, norm):
    model = make_model(pool, norm=norm)
    assert not unreached(model, model.loss(images(), torch.tensor([0, 1, 2, 4])))


def marks(size, generator):
    """A bright square of 2 × 2 pixels in noise; its class is the quarter that it lies in."""
    pictures = 0.3 * torch.randn(size, 1, 8, 8, generator=generator)
    row, column = torch.randint(0, 7, (2, size), generator=generator)
    row, column = row + (row == 3), column + (column == 3)  # never on the border of two quarters
    for down in (0, 1):
        for right in (0, 1):
            pictures[torch.arange(size), 0, row + down, column + right] += 1.5
    return pictures, 2 * (row > 3) + (column > 3)


@pytest.mark.parametrize("pool", POOLS)
def test_it_learns_where_in_a_picture_something_is(pool):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = ViT(8, 2, 1, 4, dim=16, heads=2, layers=2, pool=pool)
    batches = [marks(64, generator) for _ in range(300)]
    train(model, lambda batch: model.loss(*batch), batches, learning_rate=1e-2)
    pictures, labels = marks(300, generator)
    with torch.no_grad():
        assert model.loss(pictures, labels) < 0.4 * torch.tensor(4.0).log()
        assert (model(pictures).argmax(-1) == labels).float().mean() > 0.75  # by guessing 0.25
