"""The two networks of keras-vggface for Keras 3, and the .h5 file that its users have.

keras-vggface needs TensorFlow, so its networks are written here from its published source (keras_vggface/models.py).
Its published files were not available: the names and the layout in them are only known from that source.
Keras 3 forbids a slash in a layer's name: it is two underscores here, and a slash in the file.
"""

import h5py
import keras
from keras import layers


def vgg16(shape):
    x = image = layers.Input(shape)
    for block, (filters, count) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)], 1):
        for i in range(1, count + 1):
            x = layers.Conv2D(filters, (3, 3), activation="relu", padding="same", name=f"conv{block}_{i}")(x)
        x = layers.MaxPooling2D((2, 2), strides=(2, 2), name=f"pool{block}")(x)
    x = layers.Flatten(name="flatten")(x)
    for name in ("fc6", "fc7"):
        x = layers.Activation("relu", name=f"{name}__relu")(layers.Dense(4096, name=name)(x))
    return keras.Model(image, layers.Dense(2622, name="fc8")(x))


def resnet50(shape):
    def conv_norm(x, filters, kernel, name, **settings):
        x = layers.Conv2D(filters, kernel, use_bias=False, name=name, **settings)(x)
        return layers.BatchNormalization(name=f"{name}__bn")(x)

    def block(x, filters, name, strides=None):
        shortcut, first = x, dict(strides=strides) if strides else {}
        y = layers.Activation("relu")(conv_norm(x, filters, 1, f"{name}_1x1_reduce", **first))
        y = layers.Activation("relu")(conv_norm(y, filters, 3, f"{name}_3x3", padding="same"))
        y = conv_norm(y, 4 * filters, 1, f"{name}_1x1_increase")
        if strides:
            shortcut = conv_norm(x, 4 * filters, 1, f"{name}_1x1_proj", **first)
        return layers.Activation("relu")(layers.add([y, shortcut]))

    image = layers.Input(shape)
    x = layers.Activation("relu")(conv_norm(image, 64, 7, "conv1__7x7_s2", strides=2, padding="same"))
    x = layers.MaxPooling2D((3, 3), strides=(2, 2))(x)
    for stage, (filters, count) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)], 2):
        for i in range(1, count + 1):
            strides = None if i > 1 else 1 if stage == 2 else 2
            x = block(x, filters, f"conv{stage}_{i}", strides)
    x = layers.Flatten(name="flatten")(layers.AveragePooling2D((7, 7), name="avg_pool")(x))
    return keras.Model(image, layers.Dense(8631, name="classifier")(x))


def save_as_keras_2(net, path):
    """The .h5 file of save_weights in Keras 2: a group a layer, and in it data sets like "conv1/7x7_s2/bn/gamma:0"."""
    real = lambda name: name.replace("__", "/")
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [real(layer.name).encode() for layer in net.layers]
        file.attrs["backend"], file.attrs["keras_version"] = b"tensorflow", b"2.1.1"
        for layer in net.layers:
            group = file.require_group(real(layer.name))
            names = [f"{real(v.path)}:0".encode() for v in layer.weights]
            group.attrs["weight_names"] = names
            for name, v in zip(names, layer.weights):
                group.create_dataset(name.decode(), data=keras.ops.convert_to_numpy(v))
