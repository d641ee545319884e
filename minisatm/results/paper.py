"""The paper's printed figures (version 2) in percent: rate, or rate / one-off; an arrow is before -> after SATM."""

PAPER = {
    "Table 1": (
        ("network, undefended", "white-box, ε 32/256", "16/256", "8/256", "4/256", "clean"),
        ("VGG16-Face", "3.95", "4.30", "6.97", "12.13", "56.73"),
        ("ResNet50-Face", "4.29", "8.79", "10.65", "21.80", "59.08"),
    ),
    "Table 2": (
        ("network", "white-box rate, before → after SATM", "one-off"),
        ("VGG16-Face", "4.30 → 7.22", "13.90 → 21.43"),
        ("ResNet50-Face", "8.79 → 12.56", "26.30 → 29.89"),
    ),
    "Table 4": (
        ("network", "partner's examples, before → after SATM", "one-off", "clean after SATM"),
        ("VGG16-Face", "35.39 → 52.40", "66.99 → 88.55", "56.29"),
        ("ResNet50-Face", "16.25 → 43.25", "36.16 → 76.11", "51.77"),
    ),
    "Table 5": (
        ("network", "hold-out", "undefended", "ensemble", "SATM"),
        ("VGG16-Face", "ResNet101-Img, ε 16/256", "31.29 / 62.61", "35.87 / 68.04", "37.40 / 72.16"),
        ("ResNet50-Face", "ResNet101-Img, ε 16/256", "22.59 / 47.57", "25.84 / 54.62", "29.19 / 58.27"),
        ("VGG16-Face", "InceptionResNetV2, ε 32/256", "37.74 / 62.48", "39.61 / 66.31", "42.59 / 67.23"),
        ("ResNet50-Face", "InceptionResNetV2, ε 32/256", "40.23 / 71.09", "43.12 / 78.62", "48.26 / 80.63"),
    ),
}
