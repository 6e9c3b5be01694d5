"""The grammar of the demo's financial news: companies, people, numbers and families of sentences.

A sentence is a lead and a tail of one family with its slots filled. Everything in it is made up.
Three splits are kept apart; `data/README.md` says what they share and what they do not.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Label(StrEnum):
    """The three answers."""

    POSITIVE = "positive"
    NEGATIVE = "negative"
    NEUTRAL = "neutral"


class Split(StrEnum):
    """Which text a sentence belongs to; `BASE` carries no labels."""

    TRAIN = "train"
    HELDOUT = "heldout"
    BASE = "base"


@dataclass(frozen=True)
class Family:
    """Leads and tails that go together: any tail may follow any lead."""

    leads: tuple[str, ...]
    tails: tuple[str, ...]


# Remainders modulo 4 of the numbers that a split may use (12.7 counts as 127), and of
# lead + tail index for the combinations: so no numeral and no lead-tail pair is in two splits.
NUMBERS: Mapping[Split, frozenset[int]] = MappingProxyType(
    {
        Split.TRAIN: frozenset({0, 1}),
        Split.HELDOUT: frozenset({3}),
        Split.BASE: frozenset({2}),
    }
)
PAIRS: Mapping[Split, frozenset[int]] = MappingProxyType(
    {
        Split.TRAIN: frozenset({0, 1, 2}),
        Split.HELDOUT: frozenset({3}),
        Split.BASE: frozenset({0, 1, 2}),
    }
)

# The tables stay as they were laid out by hand.
# fmt: off
COMPANIES: Mapping[Split, tuple[str, ...]] = MappingProxyType(
    {
        Split.TRAIN: (
            "Aldermark", "Brightholm", "Castrava", "Delvanto", "Eskerlund", "Fennoway",
            "Garnetta", "Halvorsen Tools", "Ironvale", "Jutlandic Foods", "Kestrelle",
            "Lumenor", "Marrowby", "Northquay", "Ostrana", "Pellworth", "Quillon",
            "Ravensund", "Saltmere", "Tarnholt", "Umbrio", "Veltrix", "Westerby", "Yarrowtech",
            "Zephyrine", "Ambleton Bank", "Corvane", "Dunmarsh", "Elvestad", "Fairhaven Paper",
            "Granitas", "Hollowell", "Isendal", "Kalderon", "Larkspur Media", "Montclere",
        ),
        Split.HELDOUT: (
            "Arvendo", "Bexholm", "Carlsvik", "Drumlan", "Evermoor", "Foxglade", "Glimmerdal",
            "Hartwick Foods", "Inverlay", "Jorvanta", "Kingsmarsh", "Lindqvale", "Mistral Bank",
            "Norrfell", "Orrisdale", "Pinemont", "Rookhaven", "Stavendo", "Thornbury Paper",
            "Valdera",
        ),
        Split.BASE: (
            "Adelsund", "Birchway", "Cindertech", "Dovermill", "Emberline", "Ferrovik",
            "Greywater", "Highmoor", "Ivoryton", "Juniper Bank", "Kirkvale", "Longmere Foods",
            "Moorland Paper", "Nettlecom", "Oakhurst", "Primavik", "Rosendale", "Silvermoor",
            "Tidewell", "Wolverley",
        ),
    }
)
PEOPLE: Mapping[Split, tuple[str, ...]] = MappingProxyType(
    {
        Split.TRAIN: (
            "Anna Berglind", "Paul Okoro", "Marta Silveira", "Jonas Hald", "Priya Raman",
            "Erik Sandvall", "Lucia Ferrante", "Tom Ashdown", "Hana Kimura", "Peter Vogl",
        ),
        Split.HELDOUT: (
            "Clara Nystedt", "David Mensah", "Ines Duarte", "Lars Tveit", "Mei Tanaka",
        ),
        Split.BASE: (
            "Karin Holmstad", "Samuel Adeyo", "Rosa Pinheiro", "Nils Brandvik", "Yuki Mori",
        ),
    }
)

SLOTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "name": (
            "{company}", "{company}", "{company}", "{sector} group {company}",
            "{sector} company {company}", "{city}-based {company}",
        ),
        "sector": (
            "software", "shipping", "steel", "packaging", "retail", "energy", "telecoms",
            "engineering", "chemicals", "logistics", "food", "insurance",
        ),
        "city": (
            "Helsinki", "Oslo", "Rotterdam", "Dublin", "Lisbon", "Vienna", "Hamburg", "Leeds",
            "Gdansk", "Milan",
        ),
        "country": (
            "Germany", "Brazil", "India", "Poland", "Canada", "Sweden", "Spain", "Japan",
            "Kenya", "Chile",
        ),
        "period": (
            "the first quarter", "the second quarter", "the third quarter",
            "the fourth quarter", "the first half", "the nine months to September",
            "the full year", "the period",
        ),
        "weekday": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday"),
        "month": (
            "January", "February", "March", "April", "May", "June", "September", "October",
            "November",
        ),
        "metric": (
            "operating profit", "net profit", "net sales", "revenue", "pre-tax profit",
            "earnings", "turnover", "operating income", "gross profit", "cash flow",
        ),
        "burden": (
            "net loss", "operating loss", "pre-tax loss", "net debt", "credit losses",
            "operating costs", "restructuring charges",
        ),
        "goods": (
            "pumps", "cranes", "paper machines", "network equipment", "ferries",
            "lift systems", "turbines", "mobile phones", "software licences", "packaging lines",
        ),
        "site": ("plant", "factory", "mill", "warehouse", "shipyard", "office"),
        "post": (
            "chief financial officer", "head of sales", "chairman of the board",
            "chief executive", "director of communications", "general counsel",
        ),
        "broker": ("brokers", "analysts", "the bank's analysts", "a leading broker"),
        "rose": ("rose", "increased", "climbed", "grew", "jumped", "improved", "advanced"),
        "fell": ("fell", "decreased", "dropped", "declined", "slid", "shrank", "tumbled"),
        "shrank": ("narrowed", "fell", "decreased", "was cut", "eased"),
        "widened": ("widened", "rose", "increased", "deepened", "swelled"),
        "strong": ("strong", "robust", "brisk", "record", "healthy"),
        "weak": ("weak", "sluggish", "poor", "falling", "softer"),
        "good": ("strong", "record", "profitable", "successful"),
        "bad": ("weak", "poor", "difficult", "loss-making"),
        "beat": ("beating", "above", "topping", "ahead of", "exceeding"),
        "miss": ("missing", "below", "short of", "behind", "well under"),
        "forecasts": ("market forecasts", "analysts' expectations", "its own target"),
    }
)

FAMILIES: Mapping[Label, tuple[Family, ...]] = MappingProxyType(
    {
        Label.POSITIVE: (
            Family(
                (
                    "{metric} of {name} {rose} to {high} from {low} a year earlier",
                    "{name} said {metric} {rose} by {percent} in {period}",
                    "{company}'s {metric} {rose} {percent} to {high} in {period}",
                    "{metric} at {name} {rose} to {high} in {period}",
                ),
                ("", " on {strong} demand for {goods}", ", {beat} {forecasts}",
                 " despite {weak} markets in {country}"),
            ),
            Family(
                (
                    "{burden} of {name} {shrank} to {low} from {high} a year earlier",
                    "{name} said its {burden} {shrank} by {percent} in {period}",
                    "{company}'s {burden} {shrank} {percent} to {low}",
                    "{name} returned to profit in {period} with earnings of {low}",
                ),
                ("", " thanks to lower energy prices", " as the savings programme paid off",
                 ", better than {forecasts}"),
            ),
            Family(
                (
                    "{name} raised its outlook for {period}",
                    "{name} now expects {metric} to grow by more than {percent} in {period}",
                    "{company} lifted its full-year guidance for {metric} to {high}",
                    "{name} sees {metric} well above the level of {low} reached last year",
                ),
                ("", " after {strong} sales of {goods}", ", citing {strong} demand in {country}",
                 " as its order book reached a record"),
            ),
            Family(
                (
                    "{name} won an order worth {high} for {goods} in {country}",
                    "{name} has landed a {high} contract to supply {goods} to {country}",
                    "{company} secured its largest order yet, worth {high}",
                    "{name} signed a profitable {high} deal for {goods}",
                ),
                ("", " and will hire {count} people", ", strengthening its position in {country}",
                 ", which lifts its order book to a record"),
            ),
            Family(
                (
                    "Shares of {name} {rose} {percent} on {weekday}",
                    "{broker} upgraded {name} to buy",
                    "{name} was raised to outperform by {broker}",
                    "{company} shares hit a record high on {weekday}",
                ),
                ("", " after {strong} results", ", citing {strong} cash flow",
                 " on hopes of higher margins"),
            ),
            Family(
                (
                    "The board of {name} proposes to raise the dividend by {percent}",
                    "{name} will pay an extra dividend of {low}",
                    "{company} won a {low} patent lawsuit in {country}",
                    "{name} received approval to sell {goods} in {country}",
                ),
                ("", " after a {good} year", ", a boost for shareholders",
                 " and expects further growth"),
            ),
        ),
        Label.NEGATIVE: (
            Family(
                (
                    "{metric} of {name} {fell} to {low} from {high} a year earlier",
                    "{name} said {metric} {fell} by {percent} in {period}",
                    "{company}'s {metric} {fell} {percent} to {low} in {period}",
                    "{metric} at {name} {fell} to {low} in {period}",
                ),
                ("", " on {weak} demand for {goods}", ", {miss} {forecasts}",
                 " despite {strong} markets in {country}"),
            ),
            Family(
                (
                    "{burden} of {name} {widened} to {high} from {low} a year earlier",
                    "{name} said its {burden} {widened} by {percent} in {period}",
                    "{company}'s {burden} {widened} {percent} to {high}",
                    "{name} slipped into the red in {period} with a loss of {low}",
                ),
                ("", " because of higher energy prices", " as the savings programme failed",
                 ", worse than {forecasts}"),
            ),
            Family(
                (
                    "{name} cut its outlook for {period}",
                    "{name} issued a profit warning and expects {metric} to shrink by {percent}",
                    "{company} lowered its full-year guidance for {metric} to {low}",
                    "{name} sees {metric} well below the level of {high} reached last year",
                ),
                ("", " after {weak} sales of {goods}", ", citing {weak} demand in {country}",
                 " as customers cancelled orders"),
            ),
            Family(
                (
                    "{name} will lay off {count} people at its {site} in {country}",
                    "{name} is to close its {site} in {city} and cut {count} jobs",
                    "{company} lost a {high} contract to supply {goods} to {country}",
                    "{name} halted production at its {site} in {country}",
                ),
                ("", " because of {weak} demand for {goods}",
                 ", hurting its position in {country}", " and warned of further losses"),
            ),
            Family(
                (
                    "Shares of {name} {fell} {percent} on {weekday}",
                    "{broker} downgraded {name} to sell",
                    "{name} was cut to underperform by {broker}",
                    "{company} shares hit a record low on {weekday}",
                ),
                ("", " after {weak} results", ", citing {weak} cash flow",
                 " on fears of lower margins"),
            ),
            Family(
                (
                    "The board of {name} proposes to cut the dividend by {percent}",
                    "{name} was fined {low} for price fixing in {country}",
                    "{company} lost a {low} patent lawsuit in {country}",
                    "{name} recalled {goods} sold in {country} over a defect",
                ),
                ("", " after a {bad} year", ", a blow for shareholders",
                 " and expects further charges"),
            ),
        ),
        Label.NEUTRAL: (
            Family(
                (
                    "{name} will publish its results for {period} on {date}",
                    "{name} will hold its annual general meeting in {city} on {date}",
                    "{company} is to present its interim report on {weekday}",
                    "The next board meeting of {name} takes place on {date}",
                ),
                ("", ", the company said", ", according to a calendar on its website",
                 " and will hold a conference call in {city}"),
            ),
            Family(
                (
                    "{name} appointed {person} as {post}",
                    "{person} has been named {post} of {name}",
                    "{person} takes over as {post} at {company} in {month}",
                    "{name} said {person} will become {post}",
                ),
                ("", " from {date}", ", the company said on {weekday}",
                 " and a member of the management team"),
            ),
            Family(
                (
                    "{metric} of {name} came in at {low}, unchanged from a year earlier",
                    "{name} reported {metric} of {low} for {period}, in line with last year",
                    "{name} repeated its outlook for {period}",
                    "{company}'s {burden} came to {low}, the same as a year earlier",
                ),
                ("", ", the company said on {weekday}", ", as analysts had expected",
                 ", according to the interim report"),
            ),
            Family(
                (
                    "{name} makes {goods} and employs {count} people in {country}",
                    "{name} has moved its head office to {city}",
                    "{company} operates a {site} in {country} with {count} employees",
                    "The shares of {name} are listed in {city}",
                ),
                ("", ", according to its website", ", a spokesman said on {weekday}",
                 " and has another {site} in {city}"),
            ),
            Family(
                (
                    "{name} has agreed to buy a {site} in {country} from {other}",
                    "{name} and {other} are in talks about {goods} for {country}",
                    "{company} will deliver {goods} to {other} in {month}",
                    "{name} renewed its credit facility of {high} with {other}",
                ),
                ("", ", terms were not disclosed", ", the two companies said on {weekday}",
                 " and the deal is due to close in {month}"),
            ),
            Family(
                (
                    "The share capital of {name} consists of {count} shares",
                    "{broker} kept {name} at hold",
                    "Shares of {name} were little changed on {weekday}",
                    "{person} holds {percent} of the shares of {company}",
                ),
                ("", ", according to a filing", ", it was reported on {weekday}",
                 " before the results due on {date}"),
            ),
        ),
    }
)

# fmt: on
