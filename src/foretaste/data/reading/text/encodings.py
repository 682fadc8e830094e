"""The encoding of text that is not UTF-8: by its mark, its NUL bytes, or how well it reads.

The module does not know files: it judges the first bytes and some lines that are not ASCII. It was
measured against charset-normalizer 3.5, which takes "José" for Central European and short Chinese
names for Korean: cells are too short for a model of languages, so a text is scored by the
characters that are frequent in its script, and refused where two readings are near each other.
Encodings that are not in READINGS are refused, but for Baltic and Vietnamese ones, whose letters
cannot be told from Western ones.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from foretaste.errors import UsageError

MARKS = (                                 # the longer mark first: UTF-32 begins like UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
LOOKED_AT = 1 << 16  # bytes of lines that are not ASCII from which an encoding is guessed
CERTAIN, APART = 0.25, 0.2  # the lowest score that counts, and the lead over the next reading
MULTIBYTE = re.compile(
    rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}"
)
# Runs of UTF-8 that text of another script does not hold by chance.
RUN_OF_2 = re.compile(rb"(?<![\x80-\xff])(?:[\xc2-\xdf][\x80-\xbf]){2,}(?![\x80-\xff])")
RUN_OF_3 = re.compile(rb"(?<![\x80-\xff])(?:[\xe0-\xef][\x80-\xbf]{2}){2,}(?![\x80-\xff])")

HANZI = frozenset(
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发"
    "后作里用道行所然家种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开"
    "但因只从想实日军者意无力它与长把机十民第公此已工使情明性知全三又关点正业外将两高间由问很最重并"
    "物手应战向头文体政美相见被利什二等产或新己制身果加西斯月话合回特代内信表化老给世位次度门任常先"
    "海通教儿原东声提立及比员解水名真论处走义各入几口认条平系气题活尔更别打女变四神总何电数安少报才"
    "结反受目太量再感建务做接必场件计管期市直德资命山金指克许统区保至队形社便空决治展马科司五基眼书"
    "非则听白却界达光放强即像难且权思王象完设式色路记南品住告类求据程北边死张该交规万取拉格望觉术领"
    "李刘陈杨黄赵吴周徐孙朱胡郭林罗郑梁谢宋唐韩冯邓曹曾肖田董袁潘蒋蔡余杜叶苏魏吕丁沈姚卢姜崔钟谭陆"
    "伟芳娜秀英敏静丽磊洋勇艳杰娟涛超霞刚桂龙虎雄霸别姬卧藏爱影星春夏秋冬风花雪城剑红楼梦游戏"
)
HANZI_BIG5 = frozenset(
    "的一是不了在人有我他這個們中來上大為和國地到以說時要就出會可也你對生能而子那得於著下自之年過發"
    "後作裡用道行所然家種事成方多經麼去法學如都同現當沒動面起看定天分還進好小部其些主樣理心她本前開"
    "但因只從想實日軍者意無力它與長把機十民第公此已工使情明性知全三又關點正業外將兩高間由問很最重並"
    "物手應戰向頭文體政美相見被利什二等產或新己制身果加西月話合回特代內信表化老給世位次度門任常先海"
    "通教原東聲提立及比員解水名真論處走義各入口認條平系氣題活更別打女變四神總何電數安少報才結反受目"
    "太量再感建務做接必場件計管期市直資命山金指統區保至隊形社便空決治展馬科司五基眼書非聽白卻界達光"
    "放強即像難且權思王象完設式色路記南品住告類求據程北邊死張該交規萬取拉格望覺術領李劉陳楊黃趙吳周"
    "徐孫朱胡郭林羅鄭梁謝宋唐韓志明春嬌龍虎臥藏愛影星夏秋冬風花雪城劍紅樓夢遊戲悲"
)
KANJI = frozenset(
    "日一国人年大十二本中長出三同時政事自行社見月分議後前民生連五発間対上部東者党地合市業内相方四定"
    "今回新場金員九入選立開手米力学問高代明実円関決子動京全目表戦経通外最言氏現理調体化田当八六約主"
    "題下首意法不来作性的要用制治度務強気小七成期公持野協取都和統以機平総加山思家話世受区領多県続進"
    "正安設保改数記院女初北午指権心界支第産結百派点教報済書府活原先共得解名交資予川向際勝面委告軍文"
    "反元重近千考判認画海参売利組知案道信策集在件団別物側任引使求所次水半品論計死官増係感特情投示変"
    "打男基私各始島直両朝価式村提運終果西台広容必応演電住争談能無再位置真流格有口過局少放町常校料工"
    "建語球空土急止送役木割聞身切由説転食比難車優夫井何南石足神番術宮育起万着店想線声待試族銀早映親"
    "葉義伝形景落好英頭毎去味失写守若美岡影命福松佐白深字夜音様太郎花藤鈴橋伊渡香翔陽侍隠尋姫城空"
)
HANGUL = frozenset(
    "이다의는에가을를은하고지기도나서로사한인리자아대해어라시있들정수과스전그일만제오부보주것였장구원여"
    "상조성와거우무공신마적계소개국간유비선동김민영희철준현진경미호박최강윤임송홍권황안류남서울살추억생"
    "충올드데니노니카타파바트르크프레토게임물방문화학교사람랑왕꽃별바람눈물달빛밤길집세상연행복친"
)
KANA = re.compile("[\u3041-\u30ff]")
SIGN = re.compile(r"(?<=(.))(?=([^\x00-\x7f]))(?![^\W\d_]).(?=(.))", re.DOTALL)
NO_TEXT = re.compile("[\x7f-\x9f\ue000-\uf8ff]")  # control characters, private use
HALF_WIDTH = re.compile("[\uff61-\uff9f]")
WIDE_SIGNS = frozenset("　、。・「」『』（）！？：；，～ー—…“”‘’《》·")
RUSSIAN = frozenset("оеаинтсрвлкмдпуяыьгзбчй")
CYRILLIC = re.compile("[а-яёіїєґўА-ЯЁІЇЄҐЎ]")
GREEK = re.compile("[α-ωάέήίόύώϊϋΐΰΑ-ΩΆΈΉΊΌΎΏ]")
WESTERN = frozenset("àâäáãåæçèéêëìíîïñòóôõöøùúûüßÿœÀÂÄÁÃÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜŒŸ")
CENTRAL = frozenset("ąćęłńóśźżĄĆĘŁŃÓŚŹŻčďěňřšťůúýžáéíČĎĚŇŘŠŤŮÚÝŽÁÉÍőűöüŐŰÖÜăâîşţôäľĺŕ")
TURKISH = frozenset("çğıöşüâîÇĞİÖŞÜ")
SIGNS = frozenset("“”‘’‚„–—…•€™®©°´·¡¿«»½ºª£§×№ ")
# In Western text š and ž hardly stand beside these, in Czech, Slovak and Slovene they do.
ODD_WESTERN = re.compile(
    r"[^\W\d_][³¹¿¯¼¾][^\W\d_]|(?<![^\W\d_])[³¹¯][^\W\d_]|[^\W\d_]¿|œ(?![uieft])|[ÐÞðþ]"
)
CZECH = (frozenset("šžŠŽ"), frozenset("èìøùïòÈØ"))


def codec_named(asked: str) -> str:
    """Return the usual name of an encoding that is asked for.

    Args:
        asked: A name that Python knows.

    Raises:
        UsageError: There is no such encoding.
    """
    try:
        b"".decode(asked)  # refuses what is no encoding of text, such as hex
        name = codecs.lookup(asked).name
    except (LookupError, ValueError):
        raise UsageError(
            f"encoding={asked!r} is unknown.",
            fix="Use auto, utf-8, utf-16, latin-1, cp1252, cp1251, shift_jis, gbk, euc_jp or "
            "euc_kr.",
        ) from None  # fmt: skip
    # What is called Shift-JIS, GBK or EUC-KR in a file is nearly always the larger set of Windows.
    larger = {"shift_jis": "cp932", "gb2312": "gb18030", "gbk": "gb18030", "euc_kr": "cp949"}
    return {"iso8859-1": "latin-1", "utf-8-sig": "utf-8", **larger}.get(name, name)


def wide_codec(first: bytes) -> str:
    """Return utf-16 or utf-32, with its byte order where there is no mark, or "" for others.

    Without a mark, text of two or four bytes a character is known by its NUL bytes: those of the
    separators, digits and line ends all stand at the same places.

    Args:
        first: The first bytes of the content.
    """
    for mark, name in MARKS:
        if first.startswith(mark):
            return name
    head = np.frombuffer(first[: min(len(first), 1 << 14) // 4 * 4], np.uint8).reshape(-1, 4)
    if not len(head) or (head != 0).all():
        return ""
    share = (head == 0).mean(axis=0)
    codec = ""
    if share[1:].min() > 0.9 or share[:3].min() > 0.9:
        codec = "utf-32-le" if share[0] < share[3] else "utf-32-be"
    elif (share[[1, 3]] > 0.1).all() and not share[[0, 2]].any():
        codec = "utf-16-le"
    elif (share[[0, 2]] > 0.1).all() and not share[[1, 3]].any():
        codec = "utf-16-be"
    text = head.tobytes().decode(codec, errors="ignore") if codec else ""
    return codec if re.search("[0-9A-Za-z]", text) and "\0" not in text else ""


def guess(lines: Sequence[bytes]) -> tuple[str, list[str]]:
    """Return the encoding of lines that are not UTF-8, or "" and those that it could be.

    Args:
        lines: Lines of which each holds a byte beyond ASCII.
    """
    content = b"\n".join(lines)
    beyond = sum(byte > 127 for byte in content)
    scores: dict[str, float] = {}
    texts: dict[str, str] = {}
    for codec, score in READINGS.items():
        try:
            text = content.decode(codec)
        except UnicodeDecodeError:
            continue
        if not NO_TEXT.search(text):
            scores[codec], texts[codec] = score(text) / max(beyond, 1), text
    best, *rest = sorted(scores, key=lambda codec: -scores[codec]) or [""]
    near = [c for c in rest if scores[best] - scores[c] < APART and texts[c] != texts[best]]
    if best and scores[best] >= CERTAIN and not near:
        c1 = any(0x80 <= byte < 0xA0 for byte in content)
        return ("latin-1" if best == "cp1252" and not c1 else best), []
    return "", [best, *near] if best and scores[best] > 0 else []


def is_utf8(line: bytes) -> bool:
    """Return whether bytes are UTF-8.

    Args:
        line: The bytes.
    """
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def foreign_run(codec: str) -> re.Pattern[bytes]:
    """Return what shows that a line of another encoding is UTF-8 after all.

    Args:
        codec: The encoding of the other lines.
    """
    if codec in ("latin-1", "cp1252", "cp1250", "iso8859-2", "cp1254"):
        return MULTIBYTE
    return RUN_OF_2 if codec in ("cp1251", "koi8-r", "cp1253") else RUN_OF_3


def _words(text: str) -> Iterator[str]:
    yield from re.findall(r"[^\W\d_]+", text)


def _east_asian(
    common: frozenset[str], kana: float, codec: str, hangul: bool = False
) -> Callable[[str], float]:
    """Return the score of a text in an encoding of East Asia, in bytes beyond ASCII."""

    def score(text: str) -> float:
        total = 0.0
        for char in text:
            if char.isascii():
                continue
            n = sum(byte > 127 for byte in char.encode(codec))
            if HALF_WIDTH.match(char):
                total -= n
            elif KANA.match(char):
                total += kana * n
            elif char in common or char in WIDE_SIGNS:
                total += n
            else:
                total -= n * (0.0 if hangul and "가" <= char <= "힣" else 0.3)
        return total

    return score


def _alphabet(letters: re.Pattern[str], frequent: frozenset[str]) -> Callable[[str], float]:
    """Return the score of a text whose words are all in one alphabet that is not Latin."""

    def score(text: str) -> float:
        total = 0.0
        for word in _words(text):
            beyond = [char for char in word if not char.isascii()]
            whole = all(letters.match(char) for char in word)
            cased = word.islower() or word.isupper() or word.istitle()
            if not (whole and cased):
                total -= len(beyond)
            else:
                good = sum(char.lower() in frequent for char in beyond)
                total += good if len(word) > 1 else good / 2
        signs = [c for c in text if not c.isascii() and not c.isalpha()]
        return total + sum(0.2 if char in SIGNS else -1.0 for char in signs)

    return score


def _latin(letters: frozenset[str], other: float, run: float = -1.0) -> Callable[[str], float]:
    """Return the score of a text whose words mix ASCII and other Latin letters.

    `run` is the weight of a letter where three or more beyond ASCII follow each other.
    """

    def score(text: str) -> float:
        total = 0.0
        for word in _words(text):
            runs = max(map(len, re.findall(r"[^\x00-\x7f]+", word)), default=0)
            fits = 1.0 if runs == 1 else 0.5 if runs == 2 else run
            for i, char in enumerate(word):
                if not char.isascii():
                    late = char.isupper() and word[i - 1 : i].islower()
                    good = char in letters and not late
                    total += fits if good else min(other, fits)
        for found in SIGN.finditer(f"\n{text}\n"):
            before, sign, after = found.groups()
            inside = before.isalpha() and (after.isalpha() or sign in "‚„¿¡£")
            total += 0.7 if sign in SIGNS and (not inside or sign in "’‘·–—") else -1.0
        return total

    return score


def _western(text: str) -> float:
    """Return the score of a text as Western European: lost where other letters show in its signs.

    In Central European text the letters of Western text are at some places signs: `¿ó³w`.
    """
    hooks, graves = (sum(char in letters for char in text) for letters in CZECH)
    beyond = sum(not char.isascii() for char in text)
    odd = len(ODD_WESTERN.findall(text)) + (beyond if hooks and graves else 0)
    return _latin(WESTERN, -0.3)(text) - 5.0 * odd


def _central(codec: str) -> Callable[[str], float]:
    """Return the score of a text as Central European, unless Western reads it well."""

    def score(text: str) -> float:
        beyond = sum(not char.isascii() for char in text)
        western = _western(text.encode(codec).decode("cp1252", errors="replace"))
        letters = CENTRAL if "ă" in text else CENTRAL - {"ţ"}
        return 0.9 * _latin(letters, -0.5, 0.3)(text) if western < 0.5 * beyond else 0.0

    return score


def _turkish(text: str) -> float:
    """Return the score of a text as Turkish: nothing where Western reads the same letters."""
    own = sum(char in "ğışĞİŞ" for char in text)
    return _latin(TURKISH, -0.5, 0.3)(text) if own else 0.0


READINGS: dict[str, Callable[[str], float]] = {
    "cp1252": _western,
    "cp1250": _central("cp1250"),
    "iso8859-2": _central("iso8859-2"),
    "cp1254": _turkish,
    "cp1251": _alphabet(CYRILLIC, RUSSIAN),
    "koi8-r": _alphabet(CYRILLIC, RUSSIAN),
    "cp1253": _alphabet(GREEK, frozenset("αάεέηήιίοόυύωώντσςρκπλμ")),
    "cp932": _east_asian(KANJI, 0.9, "cp932"),
    "euc_jp": _east_asian(KANJI, 0.9, "euc_jp"),
    "gb18030": _east_asian(HANZI, 0.1, "gb18030"),
    "big5": _east_asian(HANZI_BIG5, 0.1, "big5"),
    "cp949": _east_asian(HANGUL, 0.1, "cp949", hangul=True),
}
