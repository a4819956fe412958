"""Languages as ISO 639-3, whether the upstream gives codes (Aya) or English names (Arena, WildChat)."""

from __future__ import annotations

import re

# Other spellings of codes that users write or rows carry; upstream has ISO 639-3 with a few macro-languages.
ISO_639_3 = {
    "ar": "arb", "ara": "arb", "en": "eng", "es": "spa", "fr": "fra", "pt": "por",
    "ru": "rus", "te": "tel", "uk": "ukr", "zh": "zho", "cmn": "zho",
}  # fmt: skip
# The names that language detectors of chat data give (polyglot, lingua, langdetect).
_NAMES = """
afrikaans afr|albanian sqi|amharic amh|arabic arb|armenian hye|azerbaijani aze|basque eus|belarusian bel|bengali ben
bokmal nob|bosnian bos|breton bre|bulgarian bul|burmese mya|catalan cat|cebuano ceb|chinese zho|chineset zho
corsican cos|croatian hrv|czech ces|danish dan|dutch nld|english eng|esperanto epo|estonian est|faroese fao
filipino fil|finnish fin|french fra|frisian fry|galician glg|ganda lug|georgian kat|german deu|greek ell|gujarati guj
hausa hau|hawaiian haw|hebrew heb|hindi hin|hungarian hun|icelandic isl|igbo ibo|indonesian ind|interlingua ina
irish gle|italian ita|japanese jpn|javanese jav|kannada kan|kazakh kaz|khmer khm|korean kor|kurdish kur|kyrgyz kir
lao lao|latin lat|latvian lav|lithuanian lit|luxembourgish ltz|macedonian mkd|malagasy mlg|malay msa|malayalam mal
maltese mlt|manx glv|maori mri|marathi mar|mongolian mon|nepali nep|norwegian nor|norwegian_n nno|nynorsk nno
occitan oci|oromo orm|pashto pus|persian fas|polish pol|portuguese por|punjabi pan|romanian ron|russian rus
sanskrit san|scots sco|serbian srp|shona sna|sinhala sin|slovak slk|slovene slv|slovenian slv|somali som|sotho sot
spanish spa|sundanese sun|swahili swa|swedish swe|tagalog tgl|tajik tgk|tamil tam|tatar tat|telugu tel|thai tha
tibetan bod|tsonga tso|tswana tsn|turkish tur|turkmen tuk|uighur uig|ukrainian ukr|urdu urd|uzbek uzb|vietnamese vie
volapük vol|welsh cym|wolof wol|xhosa xho|yiddish yid|yoruba yor|zulu zul
"""
NAMES = {pair.split()[0]: pair.split()[1] for pair in _NAMES.strip().replace("\n", "|").split("|")}

CODES = frozenset(NAMES.values())
_TWO_LETTERS = """
af afr|sq sqi|am amh|hy hye|az aze|eu eus|be bel|bn ben|bs bos|br bre|bg bul|my mya|ca cat|co cos|hr hrv|cs ces|da dan
nl nld|eo epo|et est|fo fao|fi fin|fy fry|gl glg|lg lug|ka kat|de deu|el ell|gu guj|ha hau|he heb|hi hin|hu hun|is isl
ig ibo|id ind|ia ina|ga gle|it ita|ja jpn|jv jav|kn kan|kk kaz|km khm|ko kor|ku kur|ky kir|lo lao|la lat|lv lav|lt lit
lb ltz|mk mkd|mg mlg|ms msa|ml mal|mt mlt|gv glv|mi mri|mr mar|mn mon|ne nep|no nor|nn nno|nb nob|oc oci|om orm|ps pus
fa fas|pl pol|pa pan|ro ron|sa san|sr srp|sn sna|si sin|sk slk|sl slv|so som|st sot|su sun|sw swa|sv swe|tl tgl|tg tgk
ta tam|tt tat|th tha|bo bod|ts tso|tn tsn|tr tur|tk tuk|ug uig|ur urd|uz uzb|vi vie|vo vol|cy cym|wo wol|xh xho|yi yid
yo yor|zu zul
"""
TWO_LETTERS = dict(pair.split() for pair in _TWO_LETTERS.strip().replace("\n", "|").split("|"))


def normal_language(code: str) -> str:
    """A code, or an English name, as lower-case ISO 639-3 without script or region; "und" where there is none."""
    word = code.strip().lower()
    language = re.split(r"[-_]", word)[0]
    return NAMES.get(word) or ISO_639_3.get(language, language) or "und"


def language_of_name(name: str) -> str:
    """ISO 639-3 of an English name, or of a code of these languages; "und" for what no table has."""
    code = normal_language(name)
    return code if code in CODES else "und"


def any_language(word: str) -> str:
    """ISO 639-3 of an English name, or of a code of two or three letters; "und" for what is neither.

    For rows of one's own: what the functions above make of a word is part of the hashes of other splits.
    """
    code = normal_language(word)
    code = TWO_LETTERS.get(code, code)
    return code if re.fullmatch(r"[a-z]{3}", code) else "und"
