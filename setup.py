from setuptools import find_packages, setup

setup(
    name="minisatm",
    version="0.1.0",
    description="Simultaneous Adversarial Training from scratch, on a small NumPy autograd engine",
    packages=find_packages(include=["minisatm*", "weights_convert*"]),
    package_data={"minisatm.kernels": ["*.cu", "*.cuh"]},
    python_requires=">=3.10",
    install_requires=["numpy>=2.0", "pillow>=10", "h5py>=3.10", "matplotlib>=3.8", "tqdm>=4.66", "threadpoolctl>=3.5"],
    extras_require={
        "test": ["pytest>=8", "hypothesis>=6.100", "ruff>=0.6", "mypy>=1.11"],
        "cupy": ["cupy-cuda12x[ctk]>=14"],  # ctk: NVRTC and cuBLAS, so that the driver is all a machine needs
        "cupy13": ["cupy-cuda13x[ctk]>=14"],
        "cuda-check": ["nvidia-cuda-nvrtc-cu12>=12.4,<13"],
        "peers": [
            "torch>=2.2",
            "torchvision>=0.17",
            "keras>=3.5",
            "safetensors>=0.4",
            "foolbox>=3.3",
            "torchattacks>=3.5",
            "adversarial-robustness-toolbox>=1.20",
        ],
    },
)
