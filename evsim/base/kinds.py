"""The kinds that evsim itself brings: by slot and kind, where the class lives and a line about it."""

from __future__ import annotations

#: Libraries whose names serve as kinds, ``"torchvision:resnet18"``: by slot, a function from a name to what it makes.
LIBRARIES: dict[str, dict[str, str]] = {
    "model": {
        library: f"evsim.training.models.libraries:{library}" for library in ("torchvision", "timm", "transformers")
    }
}

BUILT_IN: dict[str, dict[str, tuple[str, str]]] = {
    "aggregation": {
        "synchronous": (
            "evsim.aggregation.synchronous:Synchronous",
            "rounds with over-commitment, a goal and a reporting deadline (Bonawitz et al. 2019)",
        ),
        "buffered": (
            "evsim.aggregation.buffered:Buffered",
            "asynchronous: a step whenever the buffer is full (FedBuff, Nguyen et al. 2022)",
        ),
    },
    "pacing": {
        "quantile": (
            "evsim.aggregation.pacing:QuantileDeadline",
            "a deadline long enough for a share of the invited clients",
        ),
    },
    "selection": {
        "uniform": ("evsim.selection.uniform:Uniform", "every idle client with the same probability"),
        "by_samples": ("evsim.selection.by_samples:BySamples", "in proportion to a power of the data size"),
        "oort": ("evsim.selection.oort:Oort", "clients that still teach and are fast enough (Lai et al. 2021)"),
        "power_of_choice": (
            "evsim.selection.power_of_choice:PowerOfChoice",
            "asks d candidates for their loss, takes the largest (Cho et al. 2020)",
        ),
        "refl_ips": (
            "evsim.selection.refl_ips:ReflIps",
            "those least likely to be there later (Abdelmoniem et al. 2023)",
        ),
        "tifl": ("evsim.selection.tifl:Tifl", "a tier of similar speed, by fixed probabilities (Chai et al. 2020)"),
        "tifl_loss": ("evsim.selection.tifl:TiflLoss", "as tifl, tiers of higher loss more often, with credits"),
        "afl": ("evsim.selection.afl:ActiveFl", "a softmax over the losses of the data (Goetz et al. 2019)"),
        "fedcs": ("evsim.selection.fedcs:FedCs", "as many as a round has time for (Nishio and Yonetani 2019)"),
        "fastest": ("evsim.selection.bounds:Fastest", "the fastest devices: a bound on round lengths"),
        "longest_stay": ("evsim.selection.bounds:LongestStay", "those forecast to stay longest: a bound on drop-outs"),
        "power_of_choice_stale": (
            "evsim.selection.power_of_choice:PowerOfChoiceStale",
            "as power_of_choice, but by the last known loss: no query (rpow-d)",
        ),
        "manager": ("evsim.selection.plain:PlainManager", "a plain class of yours, as FedScale's client manager"),
    },
    "predictor": {
        "none": ("evsim.selection.forecast:NoForecast", "no forecasts"),
        "daily": ("evsim.selection.daily:Daily", "from each client's own history, by time of day"),
        "constant": ("evsim.selection.forecast:Constant", "the same chance for everybody: the null forecast"),
        "oracle": ("evsim.selection.forecast:Oracle", "reads the trace: knows the future, as no server does"),
    },
    "broadcast": {
        "full": ("evsim.algorithms.broadcast:FullModel", "the whole model to every client"),
        "scaffold": ("evsim.algorithms.scaffold:WithControl", "the model and the server's control variate: 2x"),
        "heterofl": (
            "evsim.algorithms.heterofl:HeteroFL",
            "the first channels of every hidden layer, fewer for slower devices (Diao et al. 2021)",
        ),
    },
    "client_rule": {
        "sgd": ("evsim.algorithms.sgd:Sgd", "local SGD: FedAvg's client (McMahan et al. 2017)"),
        "adam": ("evsim.algorithms.adam:Adam", "local Adam with fresh moments in every task (Kingma and Ba 2015)"),
        "fedprox": ("evsim.algorithms.fedprox:FedProx", "local SGD pulled to the received model (Li et al. 2020)"),
        "fednova": ("evsim.algorithms.fednova:NovaSgd", "local SGD, update divided by its work (Wang et al. 2020)"),
        "qfedavg": ("evsim.algorithms.qfedavg:FairSgd", "local SGD, update scaled by the loss (Li et al. 2020)"),
        "feddyn": (
            "evsim.algorithms.feddyn:FedDynSgd",
            "local SGD with a linear and a quadratic term (Acar et al. 2021)",
        ),
        "scaffold": (
            "evsim.algorithms.scaffold:ScaffoldSgd",
            "local SGD with control variates (Karimireddy et al. 2020)",
        ),
        "fedrep": (
            "evsim.algorithms.fedrep:FedRep",
            "local SGD on a head of the client's own, then on the body that all share (Collins et al. 2021)",
        ),
        "ditto": (
            "evsim.algorithms.ditto:Ditto",
            "local SGD, and a model of the client's own that is pulled to the global one (Li et al. 2021)",
        ),
    },
    "work": {
        "by_deadline": ("evsim.algorithms.workload:ByDeadline", "as many steps as a device promises to finish in time"),
        "by_class": ("evsim.algorithms.workload:ByClass", "shares of the schedule by speed class"),
        "by_column": ("evsim.algorithms.workload:ByColumn", "steps, or shares of the schedule, from the speed trace"),
    },
    "epochs": {
        "uniform": ("evsim.algorithms.epochs:UniformEpochs", "whole passes from a range, drawn for each task"),
    },
    "upload": {
        "top_k": ("evsim.algorithms.top_k:TopK", "the largest entries only, with error feedback (Stich et al. 2018)"),
        "int8": ("evsim.algorithms.int8:Int8", "8 bits per number, one scale per leaf: 1/4x"),
        "qsgd": ("evsim.algorithms.qsgd:Qsgd", "random rounding to s levels, unbiased (Alistarh et al. 2017)"),
        "rand_k": ("evsim.algorithms.rand_k:RandK", "random entries, scaled up, unbiased (Stich et al. 2018)"),
        "sign": ("evsim.algorithms.signs:Sign", "one bit per number, for merge majority (Bernstein et al. 2019)"),
        "ef_sign": (
            "evsim.algorithms.signs:EfSign",
            "one bit per number, scaled, with error feedback (Karimireddy et al. 2019)",
        ),
        "clip": ("evsim.algorithms.clip:Clip", "an update no longer than a bound"),
        "local_dp_noise": ("evsim.algorithms.local_dp:LocalDpNoise", "clip and add noise on the client"),
        "sign_flip": ("evsim.algorithms.attacks:SignFlip", "an attack: malicious clients send minus their update"),
    },
    "weighting": {
        "samples": ("evsim.algorithms.weighting:SampleWeights", "a report weighs as many samples as it used"),
        "uniform": ("evsim.algorithms.weighting:EqualWeights", "every report weighs the same"),
        "polynomial_staleness": (
            "evsim.algorithms.staleness:PolynomialStaleness",
            "(1 + staleness)^-exponent; 0.5 is FedBuff, 1 is DynSGD",
        ),
        "hinge_staleness": (
            "evsim.algorithms.staleness:HingeStaleness",
            "full weight up to a staleness, then falling (Xie et al. 2019)",
        ),
        "exponential_staleness": (
            "evsim.algorithms.staleness:ExponentialStaleness",
            "e^-(1 + staleness) for stale reports: AdaSGD",
        ),
    },
    "merge": {
        "mean": ("evsim.algorithms.mean:Mean", "the weighted mean of the updates"),
        "median": ("evsim.algorithms.robust:Median", "the median of each coordinate (Yin et al. 2018)"),
        "trimmed_mean": (
            "evsim.algorithms.robust:TrimmedMean",
            "the mean of each coordinate without its extremes (Yin et al. 2018)",
        ),
        "krum": ("evsim.algorithms.robust:Krum", "the update nearest to its neighbors (Blanchard et al. 2017)"),
        "multi_krum": ("evsim.algorithms.robust:MultiKrum", "the mean of the updates of lowest Krum scores"),
        "bulyan": (
            "evsim.algorithms.bulyan:Bulyan",
            "Krum again and again, then the middle of each number (El Mhamdi et al. 2018)",
        ),
        "geometric_median": (
            "evsim.algorithms.geometric_median:GeometricMedian",
            "the point with the smallest sum of distances: RFA (Pillutla et al. 2022)",
        ),
        "majority": ("evsim.algorithms.signs:Majority", "the sign that most updates have (Bernstein et al. 2019)"),
        "norm_clip": ("evsim.algorithms.norm_clip:NormClip", "the weighted mean of updates clipped by the server"),
        "dp": ("evsim.algorithms.dp:DpMean", "DP-FedAvg: clip, sum, noise, fixed divisor (McMahan et al. 2018)"),
        "dp_ftrl": (
            "evsim.algorithms.dp_ftrl:DpFtrl",
            "clip, sum, and the noise of a tree: privacy without sampling (Kairouz et al. 2021)",
        ),
        "buffer_mean": (
            "evsim.algorithms.asynchronous:BufferMean",
            "weighted sum over the buffer size: FedBuff as printed",
        ),
        "refl": (
            "evsim.algorithms.refl:Refl",
            "stale updates by age and deviation: REFL's SAA (Abdelmoniem et al. 2023)",
        ),
        "mixing": ("evsim.algorithms.asynchronous:Mixing", "mixes models: FedAsync (Xie et al. 2019)"),
    },
    "server_optimizer": {
        "sgd": ("evsim.algorithms.server_sgd:ServerSgd", "adds the merged update times a learning rate; 1.0 is FedAvg"),
        "fedavgm": ("evsim.algorithms.fedavgm:FedAvgM", "server momentum, heavy ball or Nesterov (Hsu et al. 2019)"),
        "fedadagrad": ("evsim.algorithms.adaptive:FedAdagrad", "adaptive server steps (Reddi et al. 2021)"),
        "fedadam": ("evsim.algorithms.adaptive:FedAdam", "adaptive server steps (Reddi et al. 2021)"),
        "fedyogi": ("evsim.algorithms.adaptive:FedYogi", "adaptive server steps (Reddi et al. 2021)"),
        "fednova": ("evsim.algorithms.fednova:FedNova", "restores the scale of normalized updates (Wang et al. 2020)"),
        "feddyn": ("evsim.algorithms.feddyn:FedDyn", "corrects the mean by the clients' terms (Acar et al. 2021)"),
        "qfedavg": ("evsim.algorithms.qfedavg:QFedAvg", "divides by the sum of h (Li et al. 2020)"),
        "scaffold": ("evsim.algorithms.scaffold:Scaffold", "moves the model and the control (Karimireddy et al. 2020)"),
    },
    "listener": {
        "csv_log": ("evsim.run.listeners.csv_log:CsvLog", "every event as a line of events.csv"),
        "perfetto": (
            "evsim.run.listeners.perfetto:Perfetto",
            "tasks and rounds as bars over time, for ui.perfetto.dev",
        ),
        "progress": ("evsim.run.listeners.progress:Progress", "a line now and then, for logs of batch jobs"),
        "tensorboard": (
            "evsim.run.listeners.tensorboard:TensorBoard",
            "curves for TensorBoard, by server steps and by virtual hours",
        ),
    },
    "network": {
        "independent": ("evsim.cost.network:IndependentLinks", "a link for each device, at its own constant rate"),
        "hourly": ("evsim.cost.networks.hourly:Hourly", "rates times a factor of the time of day"),
        "shared": ("evsim.cost.networks.shared:SharedLink", "a server link each way that all transfers share fairly"),
        "trace": ("evsim.cost.networks.traced:Traced", "measured series of (time, kbit/s), one for each client"),
    },
    "rate_format": {
        "csv": ("evsim.cost.rate_formats.csv", "columns time (s) and kbps, and series if there are several"),
        "lumos": ("evsim.cost.rate_formats.lumos", "Lumos: sessions of phones over WiFi and 4G, a tar or a folder"),
    },
    "actor": {
        "outage": ("evsim.actors.outage:Outage", "the server is down for a while; running tasks are lost or kept"),
        "fault": ("evsim.actors.fault:Fault", "devices crash and links break at random, by named draws"),
        "battery": ("evsim.actors.battery:Battery", "work drains batteries; a device that is low leaves and charges"),
    },
    "executor": {
        "auto": (
            "evsim.training.executors.auto:Auto",
            "measures the model on this machine, then picks one",
        ),
        "serial": ("evsim.training.executors.serial:Serial", "one client after the other: the definition of correct"),
        "batched": ("evsim.training.executors.batched:Batched", "stacked clients by vmap: small dense models, GPUs"),
        "workers": (
            "evsim.training.executors.workers:Workers",
            "a one-thread process per core: convolutions on a CPU",
        ),
    },
    "model": {
        "softmax": ("evsim.training.models.small:Softmax", "multinomial logistic regression"),
        "mlp": ("evsim.training.models.small:Mlp", "fully connected layers with ReLU"),
        "cnn": (
            "evsim.training.models.small:Cnn",
            "two convolutions with pooling, one hidden layer, any image size",
        ),
        "gru": ("evsim.training.models.small:Gru", "embedding, GRU and a linear layer: the next character of a text"),
        "lenet": ("evsim.training.models.images:LeNet", "LeNet-5 as it is written today (LeCun et al. 1998)"),
        "femnist_cnn": ("evsim.training.models.images:FemnistCnn", "LEAF's model of FEMNIST (Caldas et al. 2018)"),
        "resnet": ("evsim.training.models.resnet:ResNet", "residual networks of depth 8 to 56 (He et al. 2016)"),
        "mobilenet_v2": (
            "evsim.training.models.mobilenet:MobileNetV2",
            "inverted residuals with depthwise convolutions (Sandler et al. 2018)",
        ),
        "char_lstm": ("evsim.training.models.text:CharLstm", "LEAF's model of Shakespeare (Caldas et al. 2018)"),
        "transformer": (
            "evsim.training.models.transformer:Transformer",
            "a small causal transformer, GPT-2's form: what follows each token",
        ),
    },
    "objective": {
        "classification": (
            "evsim.training.objectives.classification:Classification",
            "one of several classes per sample, by cross-entropy",
        ),
        "next_token": (
            "evsim.training.objectives.next_token:NextToken",
            "a class per time step, such as the next token of a text",
        ),
        "multi_label": ("evsim.training.objectives.multi_label:MultiLabel", "several flags per sample, 0 or 1 each"),
        "regression": ("evsim.training.objectives.regression:Regression", "numbers, by squared errors or Huber's loss"),
        "binary": ("evsim.training.objectives.binary:Binary", "one of two classes, by a single logit"),
    },
    "metric": {
        "accuracy": ("evsim.training.objectives.metrics.counting:Accuracy", "share of decisions that are right"),
        "top_k": ("evsim.training.objectives.metrics.counting:TopK", "share of labels among the k largest outputs"),
        "macro_f1": ("evsim.training.objectives.metrics.counting:MacroF1", "F1, averaged over classes or flags"),
        "balanced_accuracy": (
            "evsim.training.objectives.metrics.counting:BalancedAccuracy",
            "share of samples found, averaged over classes",
        ),
        "f1": ("evsim.training.objectives.metrics.counting:F1", "F1 of the ones, over all flags together"),
        "precision": ("evsim.training.objectives.metrics.counting:Precision", "how many guessed ones are right"),
        "recall": ("evsim.training.objectives.metrics.counting:Recall", "how many ones are found"),
        "auc": ("evsim.training.objectives.metrics.ranking:Auc", "area under the ROC curve, exact"),
        "perplexity": ("evsim.training.objectives.metrics.text:Perplexity", "exp of the mean cross-entropy per token"),
        "rmse": ("evsim.training.objectives.metrics.errors:Rmse", "root of the mean of squared errors"),
        "mse": ("evsim.training.objectives.metrics.errors:Mse", "mean of squared errors"),
        "mae": ("evsim.training.objectives.metrics.errors:Mae", "mean of absolute errors"),
        "r2": ("evsim.training.objectives.metrics.errors:R2", "share of the labels' variance that is explained"),
    },
    "dataset": {
        "digits": ("evsim.training.data.digits:Digits", "1,797 handwritten 8x8 digits, 14 writer blocks, embedded"),
        "synthetic": ("evsim.training.data.synthetic:Synthetic", "LEAF's synthetic(alpha, beta), any client count"),
        "shakespeare": ("evsim.training.data.shakespeare:Shakespeare", "the next character, by 652 roles, embedded"),
        "fashion_mnist": (
            "evsim.training.data.fashion_mnist:FashionMnist",
            "70,000 images 28x28, a Debian package away",
        ),
        "arrays": ("evsim.training.data.arrays:Arrays", "a folder of .npz files with x, y and a column client"),
        "store": ("evsim.training.data.store:Store", "what `evsim data import` wrote, read from disk sample by sample"),
    },
    "partition": {
        "iid": ("evsim.training.data.partition:Iid", "samples dealt at random"),
        "natural": ("evsim.training.data.partition:Natural", "the data set's own clients, such as writers"),
        "dirichlet": ("evsim.training.data.partition:Dirichlet", "label shares per client from Dirichlet(alpha)"),
        "shards": ("evsim.training.data.partition:Shards", "label-sorted shards per client (McMahan et al. 2017)"),
        "classes": ("evsim.training.data.partition:Classes", "k classes per client"),
        "similarity": ("evsim.training.data.similarity:Similarity", "a share at random, the rest sorted by label"),
        "quantity": ("evsim.training.data.partition:Quantity", "log-normal numbers of samples, labels at random"),
        "power_law": (
            "evsim.training.data.power_law:PowerLaw",
            "numbers of samples from a power law, labels at random",
        ),
        "listed": ("evsim.training.data.listed:Listed", "a list of yours: which client has which samples"),
        "grouped": ("evsim.training.data.grouped:Grouped", "natural clients put together, whole, to fewer"),
    },
    "skew": {
        "noise": ("evsim.training.data.skew:Noise", "normal noise that rises from client to client (Li et al. 2022)"),
        "rotation": ("evsim.training.data.skew:Rotation", "images turned by the client's angle (Ghosh et al. 2020)"),
    },
    "transform": {
        "normalize": (
            "evsim.training.data.transforms.normalize:Normalize",
            "inputs less their mean, over their deviation; in evaluation, too",
        ),
        "pad_and_crop": (
            "evsim.training.data.transforms.images:PadAndCrop",
            "zeros around the image, and a cut at a place drawn for each sample (He et al. 2016)",
        ),
        "flip": ("evsim.training.data.transforms.images:Flip", "the mirror image, with a chance"),
        "mask": (
            "evsim.training.data.transforms.mask:Mask",
            "bands of frequencies and times of a spectrum set to zero (SpecAugment, Park et al. 2019)",
        ),
    },
    "join": {
        "paired": (
            "evsim.traces.joins.paired:Paired",
            "a device keeps its own speed, by name: the default where both files name their devices",
        ),
        "listed": ("evsim.traces.joins.listed:Listed", "a list of yours: the device of each client"),
        "modulo": ("evsim.traces.joins.modulo:Modulo", "client i gets device i modulo their number (FedScale's)"),
        "sample": ("evsim.traces.joins.sample:Sample", "devices at random, without replacement until exhausted"),
        "rank": (
            "evsim.traces.joins.rank:RankJoin",
            "a chosen rank correlation of data size with speed or availability",
        ),
    },
    "trace_format": {
        "evsim": ("evsim.traces.formats.columnar", "evsim's own folder: Parquet and a manifest"),
        "matrix": ("evsim.traces.formats.matrix", "0 and 1 per device and slot of time: .npy or CSV"),
        "csv": ("evsim.traces.formats.csv", "one row per interval, per event, or per device"),
        "fedscale": ("evsim.traces.formats.fedscale", "FedScale's client_behave_trace and client_device_capacity"),
        "flash": ("evsim.traces.formats.flash", "FLASH's state_traces.json and cached_timers.json"),
    },
    "data_format": {
        "cifar": ("evsim.training.data.importers.cifar", "CIFAR-10 and CIFAR-100 as Python pickles"),
        "fedscale": ("evsim.training.data.importers.fedscale", "FedScale's client_data_mapping, images or .npy files"),
        "huggingface": ("evsim.training.data.importers.huggingface", "saved with save_to_disk, or Parquet by split"),
        "idx": ("evsim.training.data.importers.idx", "MNIST, Fashion-MNIST, EMNIST: idx files, plain or gzip"),
        "image_folder": ("evsim.training.data.importers.image_folder", "images in a folder per label"),
        "leaf": ("evsim.training.data.importers.leaf", "LEAF's JSON: FEMNIST, Shakespeare, Sent140, synthetic"),
        "numpy": ("evsim.training.data.importers.numpy", "x.npy, y.npy, client.npy in a folder, or an .npz archive"),
        "speech_commands": ("evsim.training.data.importers.speech_commands", "a folder of WAV files per word"),
        "table": ("evsim.training.data.importers.table", "CSV or Parquet, a column says whose each sample is"),
        "tff": ("evsim.training.data.importers.tff", "HDF5 files of TensorFlow Federated, a group per client"),
        "torch": ("evsim.training.data.importers.torch", "any map-style torch data set, as module:function"),
    },
}
