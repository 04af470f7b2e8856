"""Pretrained networks: looked at before they are added, loaded frozen, split into trunk and tail at any layer.

    hub.py          a folder or a hub id -> a local folder
    inspect.py      a folder -> what is wrong with it, or its fingerprint and metadata
    load.py         a folder -> Backbone
    backbone.py     Backbone: texts -> token ids -> hidden states -> one vector a text

`fingerprint.py`, `weights.py`, `sentence.py` and `card.py` read files only and never import torch.
"""
