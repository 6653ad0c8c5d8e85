"""The words that lenders write: patterns of column names by what they could be, and the values of outcomes.

Names are matched in lower case with their words parted by `_`, and once more without the `_` (pipeline/roles.py).
"""

from __future__ import annotations

import re

from features.tables import CONTRACTS, MONEY

ID_END = r"(id|no|nr|num|number|key|code|ref|chkdgt)?$"
ID_PART = r"(^|_)(id|no|nr|key|ref)(_|$)|(num|number)$"
CUSTOMER = re.compile(
    r"^(customer|client|cust|borrower|applicant|member|user|person|company|firm|obligor|party|sk_?id_?curr|kunde|debitor|"
    r"客户|客戶|企业|借款人).*?" + ID_END
)
ACCOUNT = re.compile(r"^(account|acct|acc|konto)_?(id|no|nr|num|number|key)$")
CREDIT = re.compile(
    r"^(.*)?(loan|credit|contract|facility|deal|agreement|tradeline|vertrag|darlehen|合同|借据|sk_?id_?(prev|bureau))(?:.*?)"
    + ID_END
)
PLAIN_ID = re.compile(r"^(id|uid|key|编号|column0|index|row_?id)$")
OUTCOMES = (
    (r"^(target|label|outcome|class|y)$", 3), (r"default|ausfall|impag|d[ée]faut|违约|不良", 4),
    (r"serious_?dlq|dlq_?in|good_?bad|bad_?flag|^bad$|^good$|mis_?status|charged_?off$|bankrupt|delinquent$", 4),
    (r"^(loan_?|contract_?)?status$|_flag$|^flag$|^outcome_|^result$", 1),
)  # fmt: skip
BAD = {
    "1", "1.0", "bad", "default", "defaulted", "yes", "y", "true", "charged off", "chgoff", "written off", "bankrupt",
    "b", "late", "d", "ja", "si", "sí", "oui", "违约", "坏", "是",
}  # fmt: skip
GOOD = {  # no running loan: its outcome is not known yet
    "0", "0.0", "good", "paid", "no", "n", "false", "fully paid", "paid in full", "paid off", "p i f", "pif", "ok",
    "non-default", "nein", "non", "正常", "好", "否",
}  # fmt: skip
DECIDED = re.compile(
    r"as_?of|decision|appl|approv|issue|creat|grant|origin|disburs|open|start|snapshot|observ|sign|auszahl|antrag|fecha|"
    r"^date$|日期"
)
AFTERWARDS = re.compile(
    r"charge_?off|chg_?off|recover|write_?off|last_?(pay|pym|credit_?pull|fico)|total_?(rec|pay|paid|pym)|closed?_?date|"
    r"close_?on|settle|collection|loss|balance_?gross|final|end_?date|maturity|next_?pay|out_?prncp|hardship|repaid"
)
STATE = re.compile(r"status$|state$|^active$")  # of a credit: today's, and so not that of its opening
BIRTH = re.compile(r"birth|^dob$|geburt|出生")
AMOUNT = re.compile(r"amount|amt|value|sum|betrag|montant|importe|金额|总额")
DUE = re.compile(r"due|faellig|fällig|instal+ment|schedul|到期")
PAID = re.compile(r"paid|payment|pay_?date|received|clear|repaid|bezahl|付款|还款日")
BALANCE = re.compile(r"balance|outstanding|saldo|owed|exposure|^bal(_|$)|余额")
LATE = re.compile(r"days_?past|dpd|days_?late|days_?overdue|delay|逾期天数")
LIMIT = re.compile(r"limit|ceiling")
PRINCIPAL = re.compile(
    r"principal|granted|loan_?amount|loanamount|^amount$|disbursement_?gross|gr_?appv|sum_insured|kreditbetrag|贷款金额|"
    r"amt_?credit"
)
PERIOD_END = re.compile(r"period|fiscal|year_?end|balance_?date|reporting|as_?at")
INVOICE = re.compile(r"invoice|doc|bill|rechnung|factura|发票")
ISSUED = re.compile(r"issue|post|invoice_?date|created?|document|billed|ausgestellt")
INDUSTRY = re.compile(r"industry|sector|branche|naics|^sic|行业")
MEDIUM = re.compile(r"^source$|media|outlet|channel|voice|publisher")
OF_CUSTOMER = {
    "industry": INDUSTRY, "region": re.compile(r"region|state|province|city|bundesland|^ort$|地区|省|城市"),
    "segment": re.compile(r"segment|tier|service_?level"),
}  # fmt: skip
MEASURES = {
    "mentions": {
        "sentiment": re.compile(r"sentiment|tone|polarity|情感"), "reach": re.compile(r"reach|audience|views|reads"),
    },
    "standings": {
        "market_share": re.compile(r"market_?share|市场份额"), "brand": re.compile(r"brand|品牌"),
        "product_uniqueness": re.compile(r"unique|different"), "relationship": re.compile(r"relation|关系"),
    },
    "industries": {
        "size": re.compile(r"size|volume|turnover"), "growth": re.compile(r"growth|增长"),
        "competition": re.compile(r"compet|rivalry|concentration"),
        "default_rate": re.compile(r"default_?rate|bad_?rate|npl"), "policy_signal": re.compile(r"policy|政策"),
    },
}  # fmt: skip
LINE_WORDS = {
    "revenue": r"(total_|net_)?(revenues?|sales)|turnover|营业收入",
    "inventory": r"inventor(y|ies)|stock|存货",
    "equity": r"(total_|net_)?(shareholders?_?(s_)?|owners?_)?equity|所有者权益",
    "net_income": r"net_(income|profit)|净利润",
    "interest_expense": r"interest(_expenses?|_paid)?|利息支出", "ebit": r"ebit|operating_(profit|income)|营业利润",
    "retained_earnings": r"retained(_earnings|_profits?)?|未分配利润",
    "operating_cash_flow": r"operating_cash_?flow|cash_from_operations|cfo|经营现金流",
    "total_assets": r"total_assets|总资产|资产总计", "total_liabilities": r"total_(liabilities|debt)|总负债|负债合计",
    "current_assets": r"current_assets|流动资产", "current_liabilities": r"current_(liabilities|debt)|流动负债",
}  # fmt: skip
LINES = tuple(name for name, spec in CONTRACTS["financials"].columns.items() if spec.type == MONEY)
