"""The checks of every run, each a question put to the figures of `monitor` (what a check is: `finding`).

A check looks at the figures that `monitor` computed and at `Limits`, and says what it saw, in English and Chinese.
Silence is never success: figures that are absent give `not applicable` with the reason. `stop` makes `publish` refuse,
so a default limit of severity `stop` lies where only an accident gets to; null switches it off.
"""

from __future__ import annotations

from typing import Any

from models.book_checks import BOOK_CHECKS
from models.finding import Answer, Check, Figures, NotApplicable, need, registering
from models.limits import Limits

CHECKS: list[Check] = [*BOOK_CHECKS]


check = registering(CHECKS)


def run_checks(figures: Figures, limits: Limits) -> list[dict[str, Any]]:
    """Return every check's record, in the order of codes."""
    return [one.result(figures, limits) for one in sorted(CHECKS, key=lambda c: c.code)]


def unless_kept(figures: Figures, severity: str | None) -> tuple[str | None, str, str]:
    """Soften `stop` to `warn` where the figures are of a candidate that is not what scores, and say so."""
    if (figures.get("run") or {}).get("model_figures_of") == "candidate":
        softer = "warn" if severity == "stop" else severity
        return softer, " These are figures of the candidate, which does not score.", "（此为未启用的候选模型的指标。）"
    return severity, "", ""


@check("M001", "No customer was scored", "没有客户被评分", "stop")
def no_scores(figures: Figures, _: Limits) -> Answer:
    """Found where the scored table has no row."""
    n = int((figures.get("scores") or {}).get("customers") or 0)
    return Answer(None if n else "stop", f"{n:,} customers are scored.", f"已评分客户 {n:,} 个。", {"customers": n})


@check("M002", "PD missing or outside (0, 1)", "违约概率缺失或不在 (0, 1) 内", "stop")
def invalid_pd(figures: Figures, limits: Limits) -> Answer:
    """Found where too large a share of scored customers has no usable PD."""
    n = int((figures.get("scores") or {}).get("customers") or 0)
    if not n:
        raise NotApplicable("No customer is scored.", "没有客户被评分。")
    bad = int(figures["scores"].get("invalid_pd") or 0)
    seen = {"invalid": bad, "customers": n, "share": bad / n}
    return Answer(
        limits.invalid_pd_share.above(bad / n),
        f"{bad:,} of {n:,} scored customers have no PD inside (0, 1).",
        f"{n:,} 个已评分客户中有 {bad:,} 个的违约概率无效。",
        seen,
    )


@check("M003", "Scores have shifted", "评分分布漂移", "stop")
def score_psi(figures: Figures, limits: Limits) -> Answer:
    """Found where the PSI of today's scores passes a limit and what chance explains."""
    why = {
        "text": "Scores are compared on customers outside the training: these are too few, or nothing is earlier.",
        "zh": "评分仅在训练样本之外的客户上比较：此类客户过少，或没有更早的样本。",
    }
    now = need(figures, "score_drift", "now", **why)
    value, noise, against = float(now["psi"]), float(now["noise"]), now["against"]
    severity = limits.score_psi.above(value) if value > noise else None
    return Answer(
        severity,
        f"PSI of scores now against {against}: {value:.3f} (chance alone stays below {noise:.3f}).",
        f"当前评分相对于基准（{now.get('against_zh', against)}）的 PSI 为 {value:.3f}（随机波动上限 {noise:.3f}）。",
        dict(now),
    )


@check("M004", "Features went missing", "特征缺失率上升", "stop")
def missing_jump(figures: Figures, limits: Limits) -> Answer:
    """Found where a feature's missing share rose by more than the limit."""
    top = need(figures, "features", "missing", text="There are no features to compare.", zh="没有可比较的特征。")
    worst = max(top, key=lambda row: row["rise"])
    over = [row for row in top if limits.missing_jump.above(row["rise"])]
    names = ", ".join(row["feature"] for row in over[:5])
    text = (
        f"{len(over)} of {figures['features']['compared']} features went missing far more often: {names}."
        if over
        else f"No feature is missing much more often (largest rise {worst['rise']:.1%}, {worst['feature']})."
    )
    zh = (
        f"{len(over)} 个特征的缺失率大幅上升：{names}。"
        if over
        else f"没有特征的缺失率大幅上升（最大升幅 {worst['rise']:.1%}，{worst['feature']}）。"
    )
    return Answer(limits.missing_jump.above(worst["rise"]), text, zh, {"found": len(over), "worst": dict(worst)})


@check("M005", "Rows were quarantined", "数据被隔离", "stop")
def quarantined(figures: Figures, limits: Limits) -> Answer:
    """Found where a table lost too large a share of its rows to quarantine."""
    tables = need(
        figures, "data", "tables", text="No account of rows read was left by ingest.", zh="没有数据接收记录。"
    )
    counted = [t for t in tables if t["read"] > t["left_out"]]
    if not counted:
        raise NotApplicable("Ingest read no row.", "未读取任何数据行。")
    share, worst = max((t["quarantined"] / (t["read"] - t["left_out"]), t["table"]) for t in counted)
    total = sum(t["quarantined"] for t in counted)
    return Answer(
        limits.quarantined_share.above(share),
        f"{total:,} of {sum(t['read'] for t in counted):,} rows are quarantined; most in {worst}: {share:.2%}.",
        f"共隔离 {total:,} 行；比例最高的表是 {worst}：{share:.2%}。",
        {"rows": total, "table": worst, "share": share},
    )


def _calibration(figures: Figures, limits: Limits, part: str, text: str, zh: str) -> Answer:
    """Compare mean PD with the realised rate of one set of rows."""
    all_ = need(figures, part, "total", text=text, zh=zh)
    rate, pd, p = float(all_["rate"]), float(all_["pd"]), float(all_["p"])
    ratio = max(rate, pd) / max(min(rate, pd), 1e-9)
    severity = limits.calibration_ratio.above(ratio) if min(p, 1 - p) < limits.calibration_p else None
    low, high = all_["low"], all_["high"]
    return Answer(
        severity,
        f"Mean PD {pd:.2%}, realised {rate:.2%} (95% interval {low:.2%} to {high:.2%}; {all_['bad']:,} "
        f"defaults in {all_['rows']:,} rows).",
        f"平均违约概率 {pd:.2%}，实际违约率 {rate:.2%}（95% 区间 {low:.2%} 至 {high:.2%}；"
        f"{all_['rows']:,} 行中 {all_['bad']:,} 个违约）。",
        dict(all_),
    )


@check("M006", "Test rows default more or less often than predicted", "测试样本的违约率与预测不符", "stop")
def calibration_on_test(figures: Figures, limits: Limits) -> Answer:
    """Found where the realised rate of the test rows differs from the mean PD beyond chance and by a factor."""
    seen = _calibration(
        figures, limits, "model", "No predictions on test rows were left by evaluate.", "没有测试样本的预测。"
    )
    severity, more, zh = unless_kept(figures, seen.severity)
    return Answer(severity, seen.text + more, seen.text_zh + zh, seen.figures)


@check("M007", "Discrimination is too low", "区分能力过低", "stop")
def auc_floor(figures: Figures, limits: Limits) -> Answer:
    """Found where the AUC on unseen rows lies below a floor."""
    area = need(
        figures, "model", "auc", text="No AUC: no unseen rows with both outcomes.", zh="没有同时含两种结果的未见样本。"
    )
    severity, more, zh = unless_kept(figures, limits.auc.below(float(area["value"])))
    low, high = ("?" if area[end] is None else f"{area[end]:.3f}" for end in ("low", "high"))
    return Answer(
        severity,
        f"AUC {area['value']:.3f} (95% interval {low} to {high}).{more}",
        f"AUC 为 {area['value']:.3f}（95% 区间 {low} 至 {high}）。{zh}",
        dict(area),
    )


@check("M008", "The population changed in size", "客户数量突变", "stop")
def population_change(figures: Figures, limits: Limits) -> Answer:
    """Found where many more or fewer customers are scored than a month before."""
    by_month = need(figures, "scores", "by_month", text="No customer is scored.", zh="没有客户被评分。")
    count = {row["months_back"]: row["customers"] for row in by_month}
    if not count.get(0) or not count.get(1):
        raise NotApplicable("No population of the month before.", "没有上个月的客户群。")
    change = count[0] / count[1] - 1
    return Answer(
        limits.population_change.above(abs(change)),
        f"{count[1]:,} customers a month ago, {count[0]:,} now ({change:+.1%}).",
        f"一个月前 {count[1]:,} 个客户，现在 {count[0]:,} 个（{change:+.1%}）。",
        {"before": count[1], "now": count[0], "change": change},
    )


@check("M009", "Customers were lost on the way", "有客户在流程中丢失", "stop")
def conserved(figures: Figures, _: Limits) -> Answer:
    """Found where customers in are not customers scored plus customers excluded."""
    flow = need(figures, "flow", text="No account of the population was left.", zh="没有客户群记录。")
    steps = [(name, int(flow[name])) for name in ("population", "scored", "decided") if flow.get(name) is not None]
    if len(steps) < 2:
        raise NotApplicable("Only one count of the population is known.", "只有一处客户计数。")
    lost = len({n for _, n in steps}) > 1
    if flow.get("known") is not None and flow.get("excluded") is not None:
        lost = lost or int(flow["known"]) != steps[0][1] + int(flow["excluded"])
    listed = ", ".join(f"{name} {n:,}" for name, n in steps) + f", excluded {int(flow.get('excluded') or 0):,}"
    zh = listed
    for name, said in (("population", "客户群"), ("scored", "已评分"), ("decided", "已决策"), ("excluded", "排除")):
        zh = zh.replace(name, said)
    return Answer("stop" if lost else None, f"Customers: {listed}.", f"客户数：{zh}。", dict(flow))


@check("M010", "A feature looks like an identifier", "有特征疑似标识符", "warn")
def identifiers(figures: Figures, _: Limits) -> Answer:
    """Found where a feature behaves like a running number or a name."""
    need(figures, "features", "compared", text="There are no features to look at.", zh="没有可检查的特征。")
    names = list(figures["features"].get("identifier_like") or [])
    if names:
        return Answer(
            "warn", f"Like identifiers: {', '.join(names)}.", f"疑似标识符：{', '.join(names)}。", {"features": names}
        )
    return Answer(None, "No feature behaves like a running number or a name.", "没有特征疑似标识符。")


@check("M011", "Features have shifted since training", "特征自训练以来漂移", "stop")
def feature_psi(figures: Figures, limits: Limits) -> Answer:
    """Found where features moved beyond the limit and beyond chance."""
    top = need(figures, "features", "top", text="There are no features to compare.", zh="没有可比较的特征。")
    scores = figures.get("scores") or {}
    if scores.get("customers") and scores.get("in_training") == scores["customers"]:
        raise NotApplicable("The scored rows are the training rows.", "评分样本即训练样本。")
    over = [r for r in top if r["psi"] > r["noise"] and limits.feature_psi.above(r["psi"])]
    gravest = "stop" if any(limits.feature_psi.above(r["psi"]) == "stop" for r in over) else "warn"
    names = ", ".join(f"{r['feature']} {r['psi']:.2f}" for r in over[:5])
    many = max(len(over), int(figures["features"].get("moved") or 0)) if over else 0  # `top` holds the first of them
    text = (
        f"{many:,} of {figures['features']['compared']:,} features moved; most: {names}."
        if over
        else f"No feature moved beyond the limit (largest PSI {top[0]['psi']:.3f}, {top[0]['feature']})."
    )
    zh = (
        f"{figures['features']['compared']:,} 个特征中有 {many:,} 个漂移；最大：{names}。"
        if over
        else f"没有特征漂移超限（最大 PSI {top[0]['psi']:.3f}，{top[0]['feature']}）。"
    )
    return Answer(gravest if over else None, text, zh, {"found": many})


@check("M012", "Matured defaults differ from their PD", "到期违约率与当时的违约概率不符", "stop")
def calibration_realised(figures: Figures, limits: Limits) -> Answer:
    """Found where rows not trained on, whose window has closed, defaulted otherwise than predicted."""
    return _calibration(
        figures,
        limits,
        "realised",
        "No scored row outside training has a closed window yet.",
        "训练样本之外还没有已到期的评分记录。",
    )


@check("M013", "Customers lie outside what the model has seen", "客户超出模型所见范围", "stop")
def out_of_range(figures: Figures, limits: Limits) -> Answer:
    """Found where many customers have feature values beyond those of training."""
    share = need(figures, "scores", "out_of_range_share", text="Not recorded by score.", zh="评分未记录。")
    far = figures["scores"].get("far_features", 1)
    return Answer(
        limits.out_of_range_share.above(share),
        f"{share:.1%} of scored customers have {far} features or more outside the range of training.",
        f"{share:.1%} 的客户有至少 {far} 个特征超出训练范围。",
        {"share": share},
    )


@check("M014", "One grade holds almost everybody", "评级过度集中", "stop")
def one_grade(figures: Figures, limits: Limits) -> Answer:
    """Found where a single grade holds more than the limit of all scored customers."""
    groups = need(figures, "portfolio", "by_grade", text="No graded customer.", zh="没有已评级客户。")
    total = sum(g["customers"] for g in groups)
    largest = max(groups, key=lambda g: g["customers"])
    share = largest["customers"] / total
    return Answer(
        limits.one_grade_share.above(share),
        f"The largest grade, {largest['group']}, holds {share:.1%} of customers.",
        f"最大的评级 {largest['group']} 占客户的 {share:.1%}。",
        {"grade": largest["group"], "share": share},
    )


@check("M015", "Far from what could be known", "与真实概率差距较大", "stop")
def truth_gap(figures: Figures, limits: Limits) -> Answer:
    """Found where, in a simulated world, the true PD separates far better than the model."""
    why = {"text": "The true PD is known in a simulated world only.", "zh": "只有模拟数据才有真实概率。"}
    both = need(figures, "truth", "test", **why)
    model, true = need(both, "auc_model", **why), need(both, "auc_truth", **why)
    gap = float(true["value"]) - float(model["value"])
    severity, more, zh = unless_kept(figures, limits.truth_gap.above(gap))
    return Answer(
        severity,
        f"AUC {model['value']:.3f} against {true['value']:.3f} for the true PD on the same rows.{more}",
        f"AUC 为 {model['value']:.3f}，真实概率在同样的行上为 {true['value']:.3f}。{zh}",
        {"gap": gap},
    )


@check("M016", "Months of which only defaults are known", "有月份只知道违约客户", "warn")
def only_bad_known(figures: Figures, _: Limits) -> Answer:
    """Found where judged rows stand in months whose good outcomes are not known yet: rates and PDs come out high."""
    months = need(figures, "labels", "by_month", text="No outcomes were counted.", zh="没有结果统计。")
    judged = need(figures, "model", "by_month", text="No rows were judged.", zh="没有被评估的行。")
    early = {m["month"] for m in months if m["bad"] and m["unknown"] and not m["good"]}
    rows = sum(m["rows"] for m in judged if m["group"] in early)
    total = sum(m["rows"] for m in judged)
    text = (
        f"{rows:,} of {total:,} judged rows stand in months whose windows are open, where only defaults are known yet."
    )
    zh = f"{total:,} 行被评估样本中有 {rows:,} 行处于窗口未关闭、只知道违约的月份。"
    return Answer("warn" if rows else None, text, zh, {"rows": rows, "share": rows / total})
