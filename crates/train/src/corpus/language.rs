//! Which language a text is in: by script, and for Latin letters by the most frequent words.
//!
//! The key decision: seven languages of Latin script are told apart by some forty words each, Chinese by the characters
//! that only one of its two written forms has; of other scripts only the script is named. Each word costs one look into
//! a table, on the way of the pass that quality and MinHash need anyway. A text without enough evidence is `und`.

use std::sync::LazyLock;

use super::words::{Words, hash_of};

/// Scripts that are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Script {
    /// With all its accents.
    Latin,
    /// Chinese characters.
    Han,
    /// Hiragana and katakana.
    Kana,
    /// Korean.
    Hangul,
    /// Russian and others.
    Cyrillic,
    /// Greek.
    Greek,
    /// Arabic and others.
    Arabic,
    /// Hebrew.
    Hebrew,
    /// Hindi and others.
    Devanagari,
    /// Thai.
    Thai,
}

impl Script {
    /// How many.
    pub(super) const COUNT: usize = 10;

    /// What texts in these letters are called (BCP 47), Latin and Han aside.
    const NAMES: [&str; Script::COUNT] =
        ["und", "zh", "ja", "ko", "und-Cyrl", "el", "und-Arab", "he", "und-Deva", "th"];

    /// The script of a letter; none for all else, and for scripts that are not counted.
    pub(super) fn of(character: char) -> Option<Script> {
        match u32::from(character) {
            0x41..=0x5a | 0x61..=0x7a | 0xaa | 0xba => Some(Script::Latin),
            0xc0..=0x24f | 0x1e00..=0x1eff if character.is_alphabetic() => Some(Script::Latin),
            0x4e00..=0x9fff
            | 0x3400..=0x4dbf
            | 0xf900..=0xfaff
            | 0x2_0000..=0x3_ffff
            | 0x3005
            | 0x3007 => Some(Script::Han),
            0x3041..=0x3096
            | 0x30a1..=0x30fa
            | 0x30fc..=0x30ff
            | 0x31f0..=0x31ff
            | 0xff66..=0xff9d => Some(Script::Kana),
            0xac00..=0xd7a3 | 0x1100..=0x11ff | 0x3131..=0x318e => Some(Script::Hangul),
            0x400..=0x52f => Some(Script::Cyrillic),
            0x370..=0x3ff | 0x1f00..=0x1fff if character.is_alphabetic() => Some(Script::Greek),
            0x620..=0x6ff | 0x750..=0x77f if character.is_alphabetic() => Some(Script::Arabic),
            0x5d0..=0x5ea => Some(Script::Hebrew),
            0x900..=0x97f if character.is_alphabetic() => Some(Script::Devanagari),
            0xe01..=0xe5b if character.is_alphabetic() => Some(Script::Thai),
            _ => None,
        }
    }
}

/// Marks that belong to the letter before: accents, vowel signs.
pub(super) fn joins(character: char) -> bool {
    matches!(u32::from(character), 0x300..=0x36f | 0x591..=0x5c7 | 0x64b..=0x65f | 0x900..=0xdff | 0xe31..=0xe4e)
}

/// Punctuation beyond ASCII that running text has.
pub(super) fn is_punctuation(character: char) -> bool {
    matches!(
        u32::from(character),
        0xa1 | 0xa7 | 0xab | 0xb7 | 0xbb | 0xbf
            | 0x2010..=0x2027 | 0x2030..=0x205e
            | 0x3001..=0x3003 | 0x3008..=0x3011 | 0x3014..=0x301f | 0x30fb
            | 0xfe30..=0xfe4f
            | 0xff01..=0xff0f | 0xff1a..=0xff1f | 0xff3b..=0xff3d | 0xff5b..=0xff65
            | 0x60c | 0x61b | 0x61f | 0x6d4 | 0x964 | 0x965
    )
}

/// Languages of Latin script and their frequent words, function words that few others of these have.
pub(super) const LATIN: [(&str, &str); 7] = [
    (
        "en",
        "the of and to in is was that for it with he as his on be at by had not are but from or have they which you were her she all this would there been their one so an said we what who no them him will if when",
    ),
    (
        "de",
        "der die und das den von zu mit sich des auf für ist im dem nicht ein eine als auch es an werden aus er hat dass sie nach wird bei einer um am sind noch wie einem über so zum war haben nur oder aber vor zur bis mehr durch ich wir",
    ),
    (
        "fr",
        "de la le et les des en un du une que est pour qui dans par plus pas au sur ne se ce il sont avec mais ont aux été cette elle nous vous je son sa ses ou leur même comme était lui tout",
    ),
    (
        "es",
        "de la que el en y los se del las un por con una su para es al lo como más o pero sus le ha me si sin sobre este ya entre cuando todo esta ser son dos también fue había era muy años hasta desde está mi porque",
    ),
    (
        "it",
        "di e il la che in un a per è una del con non sono da le si dei ha della nel i alla lo gli come più al anche ma delle questo o suo era ci se stato molto essere quando loro mi dal due",
    ),
    (
        "pt",
        "de a o que e do da em um para é com não uma os no se na por mais as dos como mas foi ao ele das tem à seu sua ou ser quando muito há nos já está eu também só pelo pela até isso ela",
    ),
    (
        "nl",
        "de het een van en in is dat op te zijn met voor niet aan er die als bij ook om naar dan nog door over uit maar hij was worden deze heeft wordt ze ik je kan meer wel tot geen hebben had",
    ),
];

/// Rae et al. 2021, appendix A.1.1.
const STOP_WORDS: [&str; 8] = ["the", "be", "to", "of", "and", "that", "have", "with"];

/// Characters of the longest word in the tables.
pub(super) const LONGEST: u32 = 7;

/// Frequent words by their hash, in a table with open places that fits the first cache.
struct Frequent {
    /// `(SLOTS)` The upper half of the hash, languages as bits, the bit of a stop word.
    slots: Vec<(u32, u8, u8)>,
}

const SLOTS: usize = 1 << 10;

static FREQUENT: LazyLock<Frequent> = LazyLock::new(|| {
    let mut table = Frequent { slots: vec![(0, 0, 0); SLOTS] };
    for (language, (_, words)) in LATIN.iter().enumerate() {
        for word in words.split(' ') {
            table.slot(hash_of(word)).1 |= 1 << language;
        }
    }
    for (number, word) in STOP_WORDS.iter().enumerate() {
        table.slot(hash_of(word)).2 = 1 << number;
    }
    table
});

impl Frequent {
    fn place(&self, hash: u64) -> usize {
        let (tag, mut at) = ((hash >> 32) as u32, hash as usize % SLOTS);
        while self.slots[at].0 != tag && self.slots[at].0 != 0 {
            at = (at + 1) % SLOTS;
        }
        at
    }

    fn slot(&mut self, hash: u64) -> &mut (u32, u8, u8) {
        let at = self.place(hash);
        self.slots[at].0 = (hash >> 32) as u32;
        &mut self.slots[at]
    }
}

/// The languages (bits in the order of [`LATIN`]) in which a word is frequent, and the bit of a stop word.
pub(super) fn frequent(hash: u64) -> (u8, u8) {
    let table = &*FREQUENT;
    let (_, languages, stop_word) = table.slots[table.place(hash)];
    (languages, stop_word)
}

/// Frequent characters whose forms differ, Traditional beside Simplified (Unicode's Unihan: kTraditionalVariant).
const FORMS: &str = "個个們们來来這这說说國国時时會会為为對对學学發发過过還还經经動动進进長长開开關关無无現现實实點点問问見见間间機机電电業业東东車车頭头書书給给讓让認认話话邊边員员應应戰战軍军門门風风馬马魚鱼鳥鸟龍龙歲岁萬万億亿當当從从眾众體体辦办報报聲声處处備备復复夠够婦妇孫孙寧宁寶宝導导將将爾尔塵尘層层島岛幣币師师幫帮帶带廣广慶庆庫库張张歸归錄录憶忆總总惡恶驚惊願愿戲戏戶户擴扩執执擇择擊击權权條条楊杨極极構构槍枪標标樹树樣样橋桥檢检樓楼歡欢殘残氣气漢汉湯汤溝沟沒没濟济淺浅測测灣湾滿满滅灭燈灯靈灵爐炉熱热愛爱爺爷狀状獨独獄狱環环療疗監监盤盘礦矿碼码礎础確确禮礼離离種种積积稱称穩稳窮穷筆笔節节範范級级紀纪純纯紙纸線线練练組组細细終终結结絕绝統统繼继績绩續续維维網网羅罗罷罢職职聯联肅肃勝胜腦脑腳脚藝艺蘇苏藥药獲获營营雖虽慮虑補补裝装規规視视覽览覺觉訂订計计討讨議议記记許许論论設设訪访證证評评識识詞词譯译試试詩诗詳详語语誤误請请諸诸誰谁調调談谈謝谢謀谋貝贝負负財财責责敗败貨货質质貧贫購购貴贵費费資资賽赛趙赵轉转輪轮軟软輕轻較较載载輸输達达遷迁運运遠远連连違违適适選选遺遗鄧邓鄭郑釋释鐘钟鋼钢錢钱鐵铁銀银錯错鎮镇陽阳陰阴陣阵階阶際际陸陆陳陈險险隨随難难霧雾靜静韓韩頁页項项順顺須须顧顾預预領领題题顏颜飛飞飯饭館馆駕驾驗验魯鲁雞鸡麥麦黃黄齊齐齡龄兩两嚴严喪丧豐丰臨临麗丽舉举義义烏乌樂乐習习鄉乡買买亂乱爭争亞亚產产親亲僅仅倉仓價价優优傳传傷伤偉伟側侧債债傾倾兒儿蘭兰養养興兴衝冲決决況况淨净減减鳳凤創创別别劉刘則则剛刚劇剧勸劝務务勞劳勢势華华協协單单賣卖衛卫廠厂歷历壓压縣县參参雙双變变號号葉叶嗎吗聽听啟启吳吴響响喚唤圖图團团園园圍围圓圆聖圣場场壞坏塊块堅坚壇坛牆墙壯壮奪夺奮奋獎奖媽妈娛娱憲宪寬宽賓宾尋寻壽寿嘗尝盡尽屬属崗岗峽峡帥帅廢废異异棄弃彈弹徹彻徑径憂忧懷怀態态戀恋懇恳懸悬慣惯懶懒撲扑掃扫揚扬撫抚搶抢護护擔担擬拟擁拥攔拦擋挡擠挤揮挥損损換换據据擲掷攝摄擺摆斷断舊旧晝昼顯显曉晓暫暂術术殺杀雜杂棟栋欄栏檔档夢梦毀毁畢毕匯汇淚泪澤泽潔洁濁浊濃浓漲涨潤润淵渊漁渔溫温滾滚灘滩災灾爛烂煙烟煩烦燒烧牽牵犧牺獵猎豬猪貓猫獻献瑪玛瘋疯皺皱鹽盐蓋盖盜盗";

/// `(2 × 0x5200)` bits: Traditional alone, Simplified alone.
static FORM: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut forms = vec![0; 0x5200];
    for (number, character) in FORMS.chars().enumerate() {
        forms[(u32::from(character) - 0x4e00) as usize] |= 1 << (number % 2);
    }
    forms
});

/// Whether a character is of Traditional Chinese alone, and of Simplified Chinese alone.
pub(super) fn form(character: char) -> (bool, bool) {
    let place = u32::from(character).wrapping_sub(0x4e00) as usize;
    let form = FORM.get(place).copied().unwrap_or(0);
    (form == 1, form == 2)
}

/// The language of a text, as BCP 47 names it; `und` if it cannot be told, `zh` if its characters are of both forms or
/// of none.
pub(super) fn of(words: &Words) -> &'static str {
    let letters: u32 = words.scripts.iter().sum();
    let best = (0..Script::COUNT).rev().max_by_key(|&script| words.scripts[script]).unwrap_or(0);
    if letters == 0 || words.scripts[best] * 2 < letters {
        return "und";
    }
    let [latin, han, kana] =
        [Script::Latin, Script::Han, Script::Kana].map(|script| script as usize);
    if best == latin {
        return latin_language(words);
    }
    if best == han {
        // A Japanese text has more than a few kana between its characters.
        if words.scripts[kana] * 10 > words.scripts[han] {
            return "ja";
        }
        let (traditional, simplified) = (words.traditional, words.simplified);
        return if traditional > 4 * simplified {
            "zh-Hant"
        } else if simplified > 4 * traditional {
            "zh-Hans"
        } else {
            "zh"
        };
    }
    Script::NAMES[best]
}

/// The one with the most frequent words, if they are a tenth of all words.
fn latin_language(words: &Words) -> &'static str {
    let best = (0..LATIN.len()).rev().max_by_key(|&language| words.frequent[language]).unwrap_or(0);
    if words.frequent[best] as usize * 10 < words.count() { "und" } else { LATIN[best].0 }
}

/// Whether a recipe's list of languages takes in a text's: `zh` is either form.
pub(super) fn is_among(language: &str, wanted: &[String]) -> bool {
    let is_chinese = |name: &str| name == "zh" || name.starts_with("zh-");
    wanted.is_empty()
        || wanted.iter().any(|one| {
            one == language
                || (language == "zh" || one == "zh") && is_chinese(one) && is_chinese(language)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_are_told_apart() {
        // The first article of the Universal Declaration of Human Rights, and short sentences.
        for (text, expected) in [
            (
                "All human beings are born free and equal in dignity and rights. They are endowed with reason and conscience and should act towards one another in a spirit of brotherhood.",
                "en",
            ),
            ("This man was too tall!", "en"),
            (
                "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt und sollen einander im Geist der Brüderlichkeit begegnen.",
                "de",
            ),
            (
                "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison et de conscience et doivent agir les uns envers les autres dans un esprit de fraternité.",
                "fr",
            ),
            (
                "Todos los seres humanos nacen libres e iguales en dignidad y derechos y, dotados como están de razón y conciencia, deben comportarse fraternalmente los unos con los otros.",
                "es",
            ),
            (
                "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti. Essi sono dotati di ragione e di coscienza e devono agire gli uni verso gli altri in spirito di fratellanza.",
                "it",
            ),
            (
                "Todos os seres humanos nascem livres e iguais em dignidade e em direitos. Dotados de razão e de consciência, devem agir uns para com os outros em espírito de fraternidade.",
                "pt",
            ),
            (
                "Alle mensen worden vrij en gelijk in waardigheid en rechten geboren. Zij zijn begiftigd met verstand en geweten, en behoren zich jegens elkander in een geest van broederschap te gedragen.",
                "nl",
            ),
            (
                "人人生而自由，在尊嚴和權利上一律平等。他們賦有理性和良心，並應以兄弟關係的精神相對待。",
                "zh-Hant",
            ),
            (
                "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
                "zh-Hans",
            ),
            ("山高水清", "zh"),
            (
                "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
                "ja",
            ),
            ("모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.", "ko"),
            ("Все люди рождаются свободными и равными в своем достоинстве и правах.", "und-Cyrl"),
            ("Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι", "el"),
            ("يولد جميع الناس أحراراً متساوين في الكرامة والحقوق", "und-Arab"),
            ("Xq zv brr klm wpt.", "und"),
            ("1234 5678", "und"),
            ("", "und"),
        ] {
            let mut words = Words::default();
            words.read(text);
            assert_eq!(of(&words), expected, "{text}");
        }
    }

    #[test]
    fn tables_are_sound() {
        assert!(FORMS.chars().all(|character| Script::of(character) == Some(Script::Han)));
        for (number, character) in FORMS.chars().enumerate() {
            assert_eq!(form(character), (number % 2 == 0, number % 2 == 1), "{character}");
        }
        let words = LATIN.iter().flat_map(|(_, words)| words.split(' '));
        let longest = words.map(|word| word.chars().count()).max();
        assert_eq!(longest, Some(LONGEST as usize));
        assert!(FREQUENT.slots.iter().filter(|slot| slot.0 != 0).count() < SLOTS / 2);
    }

    #[test]
    fn lists_of_languages() {
        let list = |text: &str| text.split_whitespace().map(str::to_string).collect::<Vec<_>>();
        for (language, wanted, expected) in [
            ("en", "", true),
            ("en", "en de", true),
            ("fr", "en de", false),
            ("zh", "zh-Hant", true),
            ("zh-Hans", "zh-Hant", false),
            ("zh-Hans", "zh", true),
            ("und", "en", false),
        ] {
            assert_eq!(is_among(language, &list(wanted)), expected, "{language} in {wanted}");
        }
    }
}
