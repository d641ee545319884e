"""A minisatm network as ART's attacks want it, by way of network.as_function()."""

import numpy as np
from art.estimators import BaseEstimator, LossGradientsMixin, NeuralNetworkMixin
from art.estimators.classification.classifier import ClassGradientsMixin, ClassifierMixin


class Classifier(ClassGradientsMixin, ClassifierMixin, LossGradientsMixin, NeuralNetworkMixin, BaseEstimator):
    estimator_params = BaseEstimator.estimator_params

    def __init__(self, network):
        super().__init__(model=network.as_function(), clip_values=(0.0, 1.0), channels_first=False)
        shape = network.definition
        self._nb_classes = self.nb_classes = shape["classes"]
        self._input_shape = (shape["size"], shape["size"], shape["channels"])

    @property
    def input_shape(self):
        return self._input_shape

    def fit(self, x, y, **settings):
        raise NotImplementedError("minisatm trains its networks itself")

    def get_activations(self, x, layer, batch_size=128, framework=False):
        raise NotImplementedError("an answer and its gradient are all that as_function() gives")

    def predict(self, x, batch_size=128, **settings):
        return self.model(x)[0]

    def loss_gradient(self, x, y, **settings):
        logits, vjp = self.model(x)
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        return vjp((p / p.sum(axis=1, keepdims=True) - y).astype(logits.dtype))

    def class_gradient(self, x, label=None, **settings):
        logits, vjp = self.model(x)
        one = np.eye(logits.shape[1], dtype=logits.dtype)
        if label is None:
            return np.stack([vjp(np.tile(row, (len(x), 1))) for row in one], axis=1)
        return vjp(one[np.broadcast_to(label, len(x))])[:, None]
