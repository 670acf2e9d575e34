"""Word lists of English: what ends no sentence, what begins one, stop words, pronouns, names, verbs."""

from __future__ import annotations


def word_list(text: str) -> tuple[str, ...]:
    """The words of a text, for long lists.

    >>> word_list("one two")
    ('one', 'two')
    """
    return tuple(text.split())


# Written before a full stop that ends no sentence; lower case, without that stop.
_ABBREVIATIONS = word_list(
    """
    dr mr mrs ms messrs prof sr jr sen rep reps gen col lt maj adm st ph.d m.b.a corp inc co ltd bros cie ave chg s.p.a a.g n.v
    b.v s.a a.c s.s mg ft sw jan feb aug sept sep oct nov dec tues wed fri a.m p.m a.d vs d yr u.s u.k u.n u.s.a u.s.s.r n.y n.j
    n.c n.d n.h n.m s.c s.g d.c l.a w.va r.i ala ariz calif colo conn fla ga ill kan ky mich minn nev okla ore pa tenn va vt wash
    wis ok ct cos k n m l h s w c r v t e a.a a.h a.s a.t b.f c.i.t c.r c.v d.h d.w e.f e.h e.l e.m f.g f.j g.d g.f g.k h.c h.f
    h.m h.r j.b j.c j.j j.k j.p j.r l.f l.p m.j p.h r.a r.g r.h r.j r.k r.t t.j w.c w.r w.w a.m.e p.a.m m.d.c i.m.s s.a.y
    """
)
ABBREVIATIONS = frozenset(_ABBREVIATIONS)

_STOP_WORDS = word_list(
    """
    a about above after again against ain all am an and any are aren as at be because been before being below between both but by
    can couldn d did didn do does doesn doing don down during each few for from further had hadn has hasn have haven having he her
    here hers herself him himself his how i if in into is isn it its itself just ll m ma me mightn more most mustn my myself needn
    no nor not now o of off on once only or other our ours ourselves out over own re s same shan she should shouldn so some such t
    than that the their theirs them themselves then there these they this those through to too under until up ve very was wasn we
    were weren what when where which while who whom why will with won wouldn y you your yours yourself yourselves
    """
)
STOP_WORDS = frozenset(_STOP_WORDS)

# Words that are lower case inside a sentence: with a capital behind an abbreviation they begin a new one.
_COMMON_WORDS = word_list(
    """
    the this that these those there then thus though through they their them he she his her it its we our you your i my a an in on
    at by for from with without within under over after before during since until while when where who what why how which whose as
    if because although despite instead however moreover meanwhile nevertheless nonetheless indeed similarly separately still yet
    but and or nor so also even both each either neither every all any some many most much more less few several such same other
    another no not now never always often sometimes once again soon later today yesterday tomorrow here one two three four five
    six seven eight nine ten first second third last next people others someone everyone nobody nothing something anything
    everything let have has had do does did is are was were be been can could will would should may might must shall perhaps maybe
    only just very too quite rather almost already enough little according about above across along among around behind below
    beneath beside between beyond down into like near off onto out outside inside past per than toward towards up upon via whether
    unless except finally furthermore therefore hence consequently additionally overall generally usually recently currently
    eventually suddenly clearly obviously fortunately unfortunately certainly yes well consider make take use try give go come
    look see say think know find keep put set get ask tell please remember imagine suppose start begin add remove write read sales
    shares analysts officials traders investors critics experts scientists researchers students children men women
    """
)
COMMON_WORDS = frozenset(_COMMON_WORDS)

_CONJUNCTIONS = word_list(
    """
    and but for nor or so yet
    """
)
CONJUNCTIONS = frozenset(_CONJUNCTIONS)

_PRONOUNS = word_list(
    """
    i me we us you he him she her it they them my mine our ours your yours his hers its their theirs myself ourselves yourself
    yourselves himself herself itself themselves this that these those who whom whose which what whoever whomever whatever
    whichever anybody anyone anything everybody everyone everything nobody nothing somebody someone something each either neither
    both all some any none
    """
)
PRONOUNS = frozenset(_PRONOUNS)

# Lower case in titles, unless they come first.
_MINOR_WORDS = word_list(
    """
    a an the and but for nor or so yet as at by in into of off on onto out over per to up via with from than vs if
    """
)
MINOR_WORDS = frozenset(_MINOR_WORDS)

# Behind a word that can be a noun, these make it one ("Water is").
_NOUN_BEFORE = word_list(
    """
    is are was were be been has have had can could will would may might must should seems remains and or of
    """
)
NOUN_BEFORE = frozenset(_NOUN_BEFORE)

PERSON_NAMES = word_list(
    """
    Emma Liam Sophia Jackson Olivia Noah Ava Lucas Isabella Mason Mia Ethan Charlotte Alexander Amelia Benjamin Harper Leo Zoe
    Daniel Chloe Samuel Lily Matthew Grace Owen Abigail Gabriel Ella Jacob Scarlett Nathan Victoria Elijah Layla Nicholas Audrey
    David Hannah Christopher Penelope Thomas Nora Andrew Aria Joseph Claire Ryan Stella Jonathan
    """
)

# Verbs of their own kind, which a tagger does not count as verbs.
_MODALS = word_list(
    """
    can could will would shall should may might must
    """
)
_REGULAR_VERBS = word_list(
    """
    accept achieve acknowledge acquire act adapt add address adjust admire admit adopt advance advise affect afford agree aim
    allow alter analyze announce answer anticipate apologize appear apply appoint appreciate approach approve argue arrange arrest
    arrive ask assemble assert assess assign assist assume assure attach attack attempt attend attract avoid bake balance base
    bathe beg behave belong blame blend boil book borrow bounce bow brainstorm breathe browse brush bump burn bury call calculate
    care carry categorize cause celebrate change charge chase chat check cheer chew choose chop claim clarify classify clean clear
    click climb close coach code collaborate collect combine comfort comment communicate compare compete complain complete compose
    compute concentrate conclude conduct confess confirm confuse connect consider consist consult contact contain continue
    contribute control convert convince cook copy correct cough count cover craft crash crawl create cross cry cure cycle damage
    dance dare decide declare decorate decrease define delay delegate delete delight deliver demand demonstrate deny depend
    describe deserve design desire destroy detect determine develop devote differ disagree disappear discover discuss dislike
    display divide double doubt download draft drag dream dress drop dry earn edit educate elevate eliminate embrace emphasize
    employ empower enable encourage end engage enhance enjoy ensure enter entertain escape establish estimate evaluate examine
    execute exercise exist expand expect experience experiment explain explore express extend face fade fail fasten fear fetch
    fill filter finish fit fix flow focus fold follow force form format foster frame free frighten fry function gather gaze
    generate glance govern grab greet group guarantee guard guess guide hammer handle happen harness hate haunt heal heap help
    highlight hire hop hope host hug hunt hurry identify ignore illustrate imagine implement imply impress improve include
    incorporate increase indicate influence inform inject injure innovate inquire inspect inspire install instruct intend
    interview introduce invent invest investigate invite involve iterate jog join joke judge jump justify kick kill kiss knock
    label land last laugh launch learn lie like limit link list listen live load locate lock log look love lower maintain manage
    map march mark master match matter maximize measure melt memorize mention merge migrate mind minimize miss mix modify monitor
    motivate mount move multiply need negotiate nod note notice number nurture obey observe obtain occur offer open operate
    optimize order organize outline overlook owe own pack paint park participate pass pause perform permit phone pick place plan
    plant play please plot point polish post pour practice praise pray preach predict prefer prepare present preserve press
    pretend prevent print prioritize produce program project promise promote propose protect provide publish pull punch purchase
    push question quote race rain raise rank rate reach react realize receive recognize recommend record recover recycle reduce
    refer refine reflect refuse register regret reject relate relax release rely remain remember remind remove rename repair
    repeat replace reply report represent request require rescue research resist resolve respect respond rest restore restrict
    retain retire return reveal review revise reward rinse risk roll round rush sail satisfy save scan schedule scrape scratch
    scream search seem select separate serve settle share shape shiver shop shout show sign signal simplify simulate sketch ski
    skip slice slow smash smell smile sneeze sniff soak solve sort sound sparkle specify spell spray sprint squeeze stare start
    state stay step stir stop store strengthen stretch structure study submit succeed suffer suggest suit summarize supply support
    suppose surprise surround survey switch talk target taste tease tend test thank tie touch tour trace trade train transfer
    transform translate transport trap travel treat trick trip trust try tune turn type understand unify unite unlock unpack
    update upgrade upload use utilize validate value vanish vary verify view visit visualize volunteer vote wait walk wander want
    warm warn wash waste watch water wave weigh welcome whisk whisper whistle wipe wish wonder work worry wrap yawn yell zoom
    """
)
_IRREGULAR_VERBS = word_list(
    """
    be am is are was were been being have has had having do does did done doing go goes went gone going say said make made making
    take took taken taking come came coming see saw seen know knew known get got gotten getting give gave given giving find found
    think thought tell told become became becoming leave left feel felt put putting bring brought begin began begun beginning keep
    kept hold held write wrote written writing stand stood hear heard let letting mean meant set setting meet met run ran running
    pay paid sit sat sitting speak spoke spoken lead led read grow grew grown lose lost losing fall fell fallen send sent build
    built spend spent cut cutting rise rose risen rising drive drove driven driving buy bought wear wore worn choose chose chosen
    choosing break broke broken seek sought throw threw thrown catch caught deal dealt draw drew drawn drink drank drunk eat ate
    eaten fight fought fly flew flown forget forgot forgotten forgive forgave freeze froze frozen hang hung hide hid hidden hit
    hitting hurt lay laid lend lent light lit quit ride rode ridden ring rang rung sell sold shake shook shaken shine shone shoot
    shot shut sing sang sung sink sank sleep slept slide slid stick stuck steal stole strike struck swear swore sweep swept swim
    swam swimming swing swung teach taught tear tore understand understood wake woke win won winning wind wound undo overcome
    undertake withdraw split spread cast bet bid bind bound bite bit bleed bled blow blew breed feed fed flee fled forbid grind
    ground kneel knit leap leapt mistake mow prove proven rid sew sow spin spun spit spring sprang stride strive thrive weave weep
    wept can could will would shall should may might must
    """
)


def _forms(base: str) -> set[str]:
    """A regular verb's forms: base, -s, -ed, -ing."""
    stem = base[:-1] if base.endswith("e") else base
    doubled = base + base[-1] if len(base) > 2 and base[-1] in "bdgmnprt" and base[-2] in "aeiou" else stem
    if base.endswith("y") and base[-2] not in "aeiou":
        return {base, f"{base[:-1]}ies", f"{base[:-1]}ied", f"{base}ing"}
    third = f"{base}es" if base.endswith(("s", "sh", "ch", "x", "z", "o")) else f"{base}s"
    return {base, third, f"{stem}ed", f"{stem}ing", f"{doubled}ed", f"{doubled}ing"}


VERBS = (
    frozenset(form for base in _REGULAR_VERBS for form in _forms(base))
    | frozenset(_IRREGULAR_VERBS)
    | frozenset(f"{base}{suffix}" for base in _IRREGULAR_VERBS for suffix in ("s", "ing"))
) - frozenset(_MODALS)
