"""Programs that others wrote for torch, with ours in torch's place: each run ends where the same run with torch's ends."""

import sys
import time
from datetime import timedelta

import pytest
import torch
import torch.nn.functional as torch_F
from torch import distributed, nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset

import minitorch_train as mt

pytestmark = [pytest.mark.clients, *map(pytest.mark.filterwarnings, ("ignore:.*LeafSpec", "ignore:.*script_method", "ignore:torch.distributed is disabled"))]

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
    """Each epoch is a new order of all rows, and training is that of a bare loop over the same batches."""
    seen = []

    class Watched(mt.Dataset):
        def __getitem__(self, i):
            seen.append(i)
            return super().__getitem__(i)

    x, y = digits()
    dls = mt.get_dls(Watched(x, y), mt.Dataset(x, y), 16, generator=torch.Generator().manual_seed(3))
    ours, log = train_with_lightning(torch_F.cross_entropy, lambda params: torch.optim.SGD(params, lr=0.1), *dls)
    net = network()
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    for rows in seen:
        opt.zero_grad()
        torch_F.cross_entropy(net(x[rows]), y[rows]).backward()
        opt.step()
    assert_same_end(ours, net)
    torch.testing.assert_close(log[-1], torch_F.cross_entropy(net(x), y).detach())
    epochs = torch.cat(seen).view(3, -1)
    assert epochs.sort().values.equal(torch.arange(96).expand(3, -1)) and len(epochs.unique(dim=0)) == 3


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


# A language model of our own, and what is done with such models

class Block(nn.Module):
    """Attention to what came before, and two layers for each place."""

    def __init__(self, width, heads=2):
        super().__init__()
        self.heads, self.norms = heads, nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.attend, self.join = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.think = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x):
        rows, places, width = x.shape
        q, k, v = self.attend(self.norms[0](x)).view(rows, places, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        x = x + self.join(torch_F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(rows, places, width))
        return x + self.think(self.norms[1](x))


class GPT(nn.Module):
    """Two layers, and a head that is the embedding itself. What is called gives the loss, as `head_loss` finds it."""

    def __init__(self, head_loss, tokens=64, places=16, width=32):
        super().__init__()
        torch.manual_seed(2)
        self.head_loss, self.token, self.place = head_loss, nn.Embedding(tokens, width), nn.Embedding(places, width)
        self.blocks, self.norm = nn.Sequential(Block(width), Block(width)), nn.LayerNorm(width)
        nn.init.normal_(self.token.weight, std=0.3)

    def forward(self, tokens, targets):
        x = self.token(tokens) + self.place.weight[: tokens.shape[1]]
        return self.head_loss(self.norm(self.blocks(x)).flatten(0, 1), self.token.weight, targets.flatten())


def from_logits(loss):
    """A loss of hidden states and of the head's weight, by way of all the logits."""
    def head_loss(x, w, target):
        return loss(torch_F.linear(x, w), target)
    return head_loss


their_head_loss = from_logits(torch_F.cross_entropy)
HEAD_LOSSES = {**{name: from_logits(loss) for name, loss in LOSSES.items()}, "linear_cross_entropy": mt.linear_cross_entropy}
each_head_loss = pytest.mark.parametrize("head_loss", HEAD_LOSSES)


def sentences(step, rows=8, places=12):
    """Tokens that count up in steps of their own, and each one's next. Every other batch ends in places that do not count."""
    torch.manual_seed(step)
    tokens = (torch.randint(64, (rows, 1)) + torch.randint(1, 4, (rows, 1)) * torch.arange(places + 1)) % 64
    targets = tokens[:, 1:].clone()
    if step % 2:
        targets[:4, places // 2 :] = -100
    return tokens[:, :-1], targets


def groups(model):
    """Matrices decay and the rest does not."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    return [{"params": matrices, "weight_decay": 0.01}, {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0, "lr": 0.005}]


def train_gpt(head_loss, opt_class, dtype=torch.float32, wrap=lambda model: model, rows=slice(None)):
    """A new model after 8 steps of two batches, gradients clipped, loss scaled in float16; and the losses of all batches."""
    model, losses = GPT(head_loss), []
    run = wrap(model)
    opt = opt_class(groups(model), **OPTIMIZERS[opt_class.__name__])
    scaler = torch.amp.GradScaler("cpu", init_scale=1024, enabled=dtype == torch.float16)
    for step in range(8):
        for half in (0, 1):
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                loss = run(*(part[rows] for part in sentences(2 * step + half)))
            assert loss.dtype == torch.float32
            scaler.scale(loss / 2).backward()
            losses.append(loss.item())
        scaler.unscale_(opt)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(opt)
        scaler.update()
        opt.zero_grad()
    return model, losses


@each_head_loss
@each_optimizer
def test_a_gpt_learns_the_same(head_loss, name):
    ours, our_losses = train_gpt(HEAD_LOSSES[head_loss], getattr(mt, name))
    theirs, their_losses = train_gpt(their_head_loss, getattr(torch.optim, name))
    assert their_losses[-1] < 0.85 * their_losses[0]
    assert our_losses == pytest.approx(their_losses, rel=1e-4)
    assert_same_end(ours, theirs, GPT(None), atol=1e-4, rtol=1e-4)


@each_head_loss
@each_optimizer
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_gpt_learns_the_same_under_autocast(head_loss, name, dtype):
    """The losses are as little rounded as torch's, and ours goes no farther from the way in 32 bits than torch's does."""
    ours, our_losses = train_gpt(HEAD_LOSSES[head_loss], getattr(mt, name), dtype)
    theirs, their_losses = train_gpt(their_head_loss, getattr(torch.optim, name), dtype)
    exact, _ = train_gpt(their_head_loss, getattr(torch.optim, name))
    assert our_losses == pytest.approx(their_losses, abs=6e-3)  # 16 bits can be off by twice that
    ours, theirs, exact = (nn.utils.parameters_to_vector(model.parameters()) for model in (ours, theirs, exact))
    assert 0 < (theirs - exact).norm() and (ours - exact).norm() < 3 * (theirs - exact).norm()


# The compiler of torch

@each_head_loss
def test_a_compiled_gpt_learns_the_same(head_loss):
    """In one graph, made from a batch in which every target counts; in the next one some are -100, and then none is again."""
    torch.compiler.reset()
    ours, our_losses = train_gpt(HEAD_LOSSES[head_loss], mt.SGD, wrap=lambda model: torch.compile(model, fullgraph=True, backend="aot_eager"))
    theirs, their_losses = train_gpt(their_head_loss, torch.optim.SGD)
    assert our_losses == pytest.approx(their_losses, rel=1e-4)
    assert_same_end(ours, theirs, GPT(None), atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a C++ compiler where torch looks for one")
def test_compiled_to_machine_code(monkeypatch, tmp_path):
    """All losses in one graph, since the compiler takes its time; the second batch has a target that does not count."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.compiler.reset()

    def step(losses, x, w, target):
        return sum(factor * loss(x.tanh(), w, target) for factor, loss in enumerate(losses, 1))

    compiled = torch.compile(step, fullgraph=True)
    torch.manual_seed(0)
    x, w, target = torch.randn(128, 8, requires_grad=True), torch.randn(40, 8, requires_grad=True), torch.randint(40, (128,))
    for targets in (target, target.index_fill(0, torch.tensor(3), -100)):
        ours, theirs = compiled(list(HEAD_LOSSES.values()), x, w, targets), step([their_head_loss] * 3, x, w, targets)
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(torch.autograd.grad(ours, (x, w)), torch.autograd.grad(theirs, (x, w)))


# Several processes, and their checkpoints

@each_optimizer
def test_a_distributed_checkpoint_keeps_our_optimizer(tmp_path, name):
    """A run goes on from what torch wrote of it and read again, as a run that was never stopped."""
    x, y = digits()

    def start():
        net = network()
        return net, getattr(mt, name)(net.parameters(), **OPTIMIZERS[name])

    def go_on(net, opt):
        for _ in range(3):
            opt.zero_grad()
            mt.cross_entropy(net(x), y).backward()
            opt.step()

    whole, first, second = start(), start(), start()
    go_on(*whole)
    go_on(*first)
    checkpoint.save(dict(zip(("model", "opt"), get_state_dict(*first))), checkpoint_id=tmp_path)
    state = dict(zip(("model", "opt"), get_state_dict(*second)))
    checkpoint.load(state, checkpoint_id=tmp_path)
    set_state_dict(*second, model_state_dict=state["model"], optim_state_dict=state["opt"])
    go_on(*whole)
    go_on(*second)
    assert_same_end(second[0], whole[0], first[0], atol=0, rtol=0)


RUNS = {f"{loss}, {name}": (loss, name) for loss in ("torch", *HEAD_LOSSES) for name in OPTIMIZERS}


def train_on_half_the_rows(rank, folder):
    """What each of two processes does: every run, on every other row of each batch. The first keeps where the runs ended."""
    torch.set_num_threads(1)
    store = distributed.FileStore(str(folder / "store"), 2)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    try:
        ends = {}
        for run, (loss, name) in RUNS.items():
            head_loss, optim = (their_head_loss, torch.optim) if loss == "torch" else (HEAD_LOSSES[loss], mt)
            model, _ = train_gpt(head_loss, getattr(optim, name), wrap=DistributedDataParallel, rows=slice(rank, None, 2))
            ends[run] = model.state_dict()
        if rank == 0:
            torch.save(ends, folder / "ends.pt")
    finally:
        distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ends_of_two_processes(tmp_path_factory):
    """The parameters at the end of each of RUNS, trained by two processes."""
    folder, loopback = tmp_path_factory.mktemp("two"), {"linux": "lo", "darwin": "lo0"}
    with pytest.MonkeyPatch.context() as patch:
        if sys.platform in loopback:
            patch.setenv("GLOO_SOCKET_IFNAME", loopback[sys.platform])  # no other machine is asked
        both = torch.multiprocessing.spawn(train_on_half_the_rows, (folder,), nprocs=2, join=False)
    try:
        until = time.monotonic() + 180
        while not both.join(timeout=1):  # raises what a process raised
            assert time.monotonic() < until, "the two processes are not done"
    finally:
        for process in both.processes:
            process.kill()
            process.join()
    return torch.load(folder / "ends.pt")


@each_head_loss
@each_optimizer
def test_two_processes_learn_the_same(ends_of_two_processes, head_loss, name):
    ours, theirs = ends_of_two_processes[f"{head_loss}, {name}"], ends_of_two_processes[f"torch, {name}"]
    alone = train_gpt(their_head_loss, getattr(torch.optim, name), rows=slice(0, None, 2))[0].state_dict()
    assert any(not theirs[key].allclose(alone[key], atol=1e-3) for key in theirs)  # the other half was learned from
    for key in theirs:
        torch.testing.assert_close(ours[key], theirs[key], atol=1e-4, rtol=1e-4, msg=lambda said: f"{key}: {said}")
