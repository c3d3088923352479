"""HELP (Lee et al., NeurIPS 2021), and MAML and Meta-SGD as its simpler kin: meta-learned latency ranking."""
