"""What to cite for a kind of model; a trainer carries its own as `_paper`, as TRL's trainers do."""

MDLM = {
    "title": "Simple and Effective Masked Diffusion Language Models",
    "id": "2406.07524",
    "citation": """@inproceedings{sahoo2024mdlm,
  title     = {Simple and Effective Masked Diffusion Language Models},
  author    = {Sahoo, Subham Sekhar and Arriola, Marianne and Schiff, Yair and Gokaslan, Aaron and Marroquin, Edgar and
               Chiu, Justin T. and Rush, Alexander and Kuleshov, Volodymyr},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2024},
  url       = {https://arxiv.org/abs/2406.07524}
}""",
}
PRISM = {
    "title": "Fine-Tuning Masked Diffusion for Provable Self-Correction",
    "id": "2510.01384",
    "citation": """@article{kim2025prism,
  title   = {Fine-Tuning Masked Diffusion for Provable Self-Correction},
  author  = {Kim, Jaeyeon and Kim, Seunggeun and Lee, Taekyun and Pan, David Z. and Kim, Hyeji and Kakade, Sham and
             Chen, Sitan},
  journal = {arXiv preprint arXiv:2510.01384},
  year    = {2025},
  url     = {https://arxiv.org/abs/2510.01384}
}""",
}
TOKEN_CRITIC = {
    "title": "Improved Masked Image Generation with Token-Critic",
    "id": "2209.04439",
    "citation": """@inproceedings{lezama2022tokencritic,
  title     = {Improved Masked Image Generation with Token-Critic},
  author    = {Lezama, Jos{\\'e} and Chang, Huiwen and Jiang, Lu and Essa, Irfan},
  booktitle = {European Conference on Computer Vision},
  year      = {2022},
  url       = {https://arxiv.org/abs/2209.04439}
}""",
}
