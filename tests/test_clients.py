"""Programs that others wrote for torch, with ours in torch's place: each run ends where the same run with torch's ends."""

import copy

import pytest
import torch
import torch.nn.functional as torch_F
from torch import nn
from torch.utils.data import TensorDataset

import minitorch_train as mt

pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore:.*LeafSpec")]

LOSSES = {"cross_entropy": mt.cross_entropy, "fused_cross_entropy": mt.fused_cross_entropy}
OPTIMIZERS = {"SGD": {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3, "nesterov": True}, "Adam": {"lr": 0.01, "weight_decay": 1e-3}}
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
each_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


def digits(rows=96, features=8, classes=5):
    """Rows that a small network learns to tell apart, and their classes."""
    torch.manual_seed(0)
    x, y = torch.randn(rows, features), torch.randint(classes, (rows,))
    return x + torch_F.one_hot(y, features), y


def network():
    """The same small network each time."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 5))


def assert_same_end(ours, theirs, start=None, **tolerance):
    """Both were trained, and every parameter of one is that of the other."""
    assert any(not p.equal(q) for p, q in zip(theirs.parameters(), (start or network()).parameters()))
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, msg=lambda said: f"{name}: {said}", **tolerance)


# Lightning

@pytest.fixture
def train_with_lightning(tmp_path, caplog):
    """A function that trains the network with Lightning, and gives it back with what was logged in validation."""
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self, loss, make_opt, make_schedule):
            super().__init__()
            self.net, self.loss, self.make_opt, self.make_schedule, self.logged = network(), loss, make_opt, make_schedule, []

        def training_step(self, batch, _):
            return self.loss(self.net(batch[0]), batch[1])

        def validation_step(self, batch, _):
            self.log("valid_loss", self.loss(self.net(batch[0]), batch[1]), batch_size=len(batch[0]))

        def on_validation_epoch_end(self):
            self.logged.append(self.trainer.callback_metrics["valid_loss"])

        def configure_optimizers(self):
            opt = self.make_opt(self.net.parameters())
            if self.make_schedule is None:
                return opt
            return {"optimizer": opt, "lr_scheduler": {"scheduler": self.make_schedule(opt), "interval": "step"}}

    def train(loss, make_opt, train_dl, valid_dl, make_schedule=None, **options):
        caplog.set_level("ERROR", "lightning.pytorch")
        module = Module(loss, make_opt, make_schedule)
        trainer = lightning.Trainer(
            max_epochs=3, accelerator="cpu", default_root_dir=tmp_path, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, num_sanity_val_steps=0, **options)
        trainer.fit(module, train_dl, valid_dl)
        return module.net, module.logged

    return train


def torch_loaders(x, y):
    return torch.utils.data.DataLoader(TensorDataset(x, y), batch_size=16), torch.utils.data.DataLoader(TensorDataset(x, y), batch_size=32)


LIGHTNING = {"plain": {}, "accumulated": {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5}, "bfloat16": {"precision": "bf16-mixed"}}


@each_loss
@each_optimizer
@pytest.mark.parametrize("options", LIGHTNING.values(), ids=LIGHTNING)
def test_lightning_with_our_loss_and_optimizer(train_with_lightning, loss, name, options):
    loaders, numbers = torch_loaders(*digits()), OPTIMIZERS[name]
    ours, our_log = train_with_lightning(loss, lambda params: getattr(mt, name)(params, **numbers), *loaders, **options)
    theirs, their_log = train_with_lightning(torch_F.cross_entropy, lambda params: getattr(torch.optim, name)(params, **numbers), *loaders, **options)
    assert_same_end(ours, theirs)
    torch.testing.assert_close(our_log, their_log)
    assert their_log[-1] < their_log[0]


def test_lightning_with_our_loaders(train_with_lightning):
    """Shuffled by a generator of its own. Torch's loader goes over the same batches, which our sampler picks for it."""
    x, y = digits()
    dls = mt.get_dls(mt.Dataset(x, y), mt.Dataset(x, y), 16, generator=torch.Generator().manual_seed(3))
    sampler = mt.Sampler(x, 16, shuffle=True, generator=torch.Generator().manual_seed(3))
    train_dl = torch.utils.data.DataLoader(TensorDataset(x, y), batch_sampler=sampler)

    def sgd(params):
        return torch.optim.SGD(params, lr=0.1)

    ours, our_log = train_with_lightning(torch_F.cross_entropy, sgd, *dls)
    theirs, their_log = train_with_lightning(torch_F.cross_entropy, sgd, train_dl, torch_loaders(x, y)[1])
    assert_same_end(ours, theirs)
    torch.testing.assert_close(our_log, their_log)


def test_lightning_with_our_schedule(train_with_lightning):
    loaders, steps = torch_loaders(*digits()), 3 * 6
    ours, _ = train_with_lightning(
        mt.cross_entropy, lambda params: mt.SGD(params, lr=0.5), *loaders, make_schedule=lambda opt: mt.one_cycle(opt, steps))
    theirs, _ = train_with_lightning(
        torch_F.cross_entropy, lambda params: torch.optim.SGD(params, lr=0.5), *loaders,
        make_schedule=lambda opt: torch.optim.lr_scheduler.OneCycleLR(opt, 0.5, steps, cycle_momentum=False))
    assert_same_end(ours, theirs)


# skorch

def train_with_skorch(loss, opt_class, numbers, tmp_path):
    """Two epochs, the net kept and loaded into another one, and two epochs more: the network, and the losses of all epochs."""
    from skorch import NeuralNetClassifier

    class Criterion(nn.Module):
        def forward(self, scores, target):
            return loss(scores, target)

    def make():
        return NeuralNetClassifier(network, criterion=Criterion, optimizer=opt_class, max_epochs=2, batch_size=16, train_split=None, verbose=0,
                                   **{f"optimizer__{key}": value for key, value in numbers.items()})

    (x, y), net, again = digits(), make(), make().initialize()
    net.fit(x, y)
    files = {f"f_{part}": str(tmp_path / f"{part}.pt") for part in ("params", "optimizer", "history")}
    net.save_params(**files)
    again.load_params(**files)
    again.partial_fit(x, y)
    return again.module_, again.history[:, "train_loss"]


@each_loss
@each_optimizer
def test_skorch_with_our_loss_and_optimizer(tmp_path, loss, name):
    numbers = OPTIMIZERS[name]
    ours, our_losses = train_with_skorch(loss, getattr(mt, name), numbers, tmp_path)
    theirs, their_losses = train_with_skorch(torch_F.cross_entropy, getattr(torch.optim, name), numbers, tmp_path)
    assert_same_end(ours, theirs)
    assert our_losses == pytest.approx(their_losses) and len(their_losses) == 4 and their_losses[-1] < their_losses[0]


# accelerate

@pytest.fixture
def train_with_accelerate():
    """A function that trains the network with accelerate, several batches to a step, in bfloat16."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState

    def train(loss, make_opt):
        accelerator = Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=3)
        net = network()
        opt = make_opt(net.parameters())
        schedule = torch.optim.lr_scheduler.LambdaLR(opt, lambda step: 0.9**step)
        net, opt, train_dl, schedule = accelerator.prepare(net, opt, torch_loaders(*digits())[0], schedule)
        for _ in range(3):
            for xb, yb in train_dl:
                with accelerator.accumulate(net):
                    value = loss(net(xb), yb)
                    accelerator.backward(value)
                    accelerator.clip_grad_norm_(net.parameters(), 1.0)
                    opt.step()
                    schedule.step()
                    opt.zero_grad()
        return accelerator.unwrap_model(net), opt.param_groups[0]["lr"]

    yield train
    AcceleratorState._reset_state(reset_partial_state=True)  # what an Accelerator was told is kept for the whole process
    GradientState._reset_state()


@each_loss
@each_optimizer
def test_accelerate_with_our_loss_and_optimizer(train_with_accelerate, loss, name):
    numbers = OPTIMIZERS[name]
    ours, our_rate = train_with_accelerate(loss, lambda params: getattr(mt, name)(params, **numbers))
    theirs, their_rate = train_with_accelerate(torch_F.cross_entropy, lambda params: getattr(torch.optim, name)(params, **numbers))
    assert_same_end(ours, theirs)
    assert our_rate == their_rate < numbers["lr"]
