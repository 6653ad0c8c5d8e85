"""The Chinese of what earlier stages say in English sentences: the decision on a model, its reasons, why a split is so.

A sentence without a translation stays as it is, so that nothing is hidden.
"""

from __future__ import annotations

import re

DECISIONS = {
    "first": "首个模型", "promoted": "候选模型启用", "kept": "保留冠军模型", "unchanged": "候选模型即冠军模型",
    "not comparable": "无法比较", "champion not computable": "冠军模型无法计算", "no candidate": "没有候选模型",
    "experiment": "实验",
}  # fmt: skip
SENTENCES = (
    (r"the first model of this source", "该数据源的首个模型"),
    (r"the candidate is the champion", "候选模型即冠军模型"),
    (r"(\S+) defaults on the (\S+) rows compared, at least (\S+) and one good are needed",
     r"比较的 \2 行中有 \1 个违约，至少需要 \3 个违约和一个正常"),
    (r"AUC lower than the champion's by (\S+) \(95% interval (\S+) to (\S+), paired p (\S+)\), allowed (\S+)",
     r"AUC 比冠军模型低 \1（95% 区间 \2 至 \3，配对检验 p = \4），允许 \5"),
    (r"calibration slope (\S+), allowed (\S+) to (\S+)", r"校准斜率 \1，允许 \2 至 \3"),
    (r"PSI of the score (\S+) between train and out-of-time, allowed below (\S+)",
     r"训练与时间外样本之间评分的 PSI 为 \1，须低于 \2"),
    (r"random split: no rows exist that neither model was trained on", "随机划分：不存在两个模型均未训练过的样本"),
    (r"the champion was trained on every row compared", "冠军模型的训练样本包含全部比较样本"),
    (r"one as_of only", "只有一个基准日"),
    (r"no date leaves (\S+) defaults both after it and in windows that closed before it",
     r"没有一个日期能使其后与其前已关闭的窗口中各有 \1 个违约"),
    (r"several as_ofs, and enough defaults on both sides of the gap", "有多个基准日，且间隔两侧的违约数量足够"),
    (r"no observation has a known outcome yet", "尚无已知结果的观察"),
    (r"all (\S+) known outcomes are (defaults|good): one class cannot be learned", r"\1 个已知结果只有一类，无法学习"),
    (r"(\S+) (?:defaults|good outcomes) among (\S+) known outcomes: at least (\S+) are needed",
     r"\2 个已知结果中较少的一类仅 \1 个，至少需要 \3 个"),
    (r"none of (\d+) features varies enough to teach anything", r"\1 个特征均无足够变化可供学习"),
    (r"there are no training rows", "没有训练样本"),
    (r"(\d+) of the model's features are no longer built", r"模型的 \1 个特征已不再构建"),
    (r"no rows that trained the model, or of one outcome only", "没有训练该模型的样本，或只有一种结果"),
    (r"nothing was scored", "没有评分"),
)  # fmt: skip


def decision(text: str) -> str:
    """Return the Chinese of a verdict's decision."""
    return DECISIONS.get(text, text)


def sentence(text: str) -> str:
    """Return the Chinese of a reason; one that is not known stays as it is."""
    for pattern, chinese in SENTENCES:
        match = re.fullmatch(pattern, text)
        if match:
            return match.expand(chinese)
    return text
