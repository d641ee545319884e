"""Published weight files (Keras, PyTorch, safetensors, Caffe, NumPy) turned into minisatm's .h5."""
