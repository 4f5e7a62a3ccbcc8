"""The problem that the demonstration solves: a small neural network that reads handwritten digits.

The data are the 1797 scanned digits that come with scikit-learn; nothing is downloaded.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

SPACE: Mapping[str, object] = {
    "learning_rate": "loguniform(1e-4, 1e-1)",
    "alpha": "loguniform(1e-6, 1e-1)",
    "hidden": "loguniform(8, 128, discrete=True)",
    "batch_size": "choices([16, 32, 64, 128])",
    "activation": "choices(['relu', 'tanh', 'logistic'])",
}
"""What is varied, in the notation of `moorage.space`."""

EPOCHS = 40
"""How long a trial trains, unless it is pruned."""


@functools.cache
def load() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Images to train with, images to validate with, and what the one and the other show."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, digits = load_digits(return_X_y=True)
    split = train_test_split(images / 16, digits, test_size=0.4, stratify=digits, random_state=0)
    return split[0], split[1], split[2], split[3]


def train(params: Mapping[str, object], epochs: int = EPOCHS, seed: int = 0) -> Iterator[tuple[float, float]]:
    """Train a network with one hidden layer; after each epoch, the loss and the accuracy on the validation images.

    The same params and seed give the same figures.

    Args:
        params: a point of `SPACE`; ``hidden`` is the width of the layer, ``alpha`` the weight of the penalty.
        epochs: how many.
        seed: of the initial weights and of the order of the images.
    """
    from sklearn.metrics import log_loss
    from sklearn.neural_network import MLPClassifier

    training_images, validation_images, training_digits, validation_digits = load()
    network = MLPClassifier(
        hidden_layer_sizes=(params["hidden"],),
        activation=params["activation"],
        learning_rate_init=params["learning_rate"],
        alpha=params["alpha"],
        batch_size=params["batch_size"],
        random_state=seed,
    )
    for _ in range(epochs):
        network.partial_fit(training_images, training_digits, classes=range(10))
        probabilities = network.predict_proba(validation_images)
        accuracy = (probabilities.argmax(axis=1) == validation_digits).mean()
        yield float(log_loss(validation_digits, probabilities)), float(accuracy)
