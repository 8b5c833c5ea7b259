"""Mistakes of masks, given or causal."""

from attn_core.diagnosis.mistake import Mistake

MASKS = (
    Mistake(
        name="mask ignored",
        says="the mask is not used",
        formula=r"\operatorname{softmax}(S) V",
        shows="what is masked gets weight",
        seen="D0, D2: there is none",
        knob="mask",
        setting="ignored",
    ),
    Mistake(
        name="mask inverted",
        says="the mask is inverted: what may be attended is hidden",
        formula=r"s_{ij} = -\infty \text{ where } m_{ij} = 1",
        shows="padding gets all the weight",
        seen="masks written for torch.nn.MultiheadAttention, where True hides",
        knob="mask",
        setting="inverted",
    ),
    Mistake(
        name="mask added",
        says="the mask is added to the scores as 0 and 1 (or as −1 and 0)",
        formula=r"\operatorname{softmax}(S + M) V",
        shows="what is masked gets less weight, but not none",
        seen="a bool mask where a float mask is meant",
        knob="mask",
        setting="added",
    ),
    Mistake(
        name="mask makes zeros",
        says="hidden scores become 0: multiplied by the mask, or filled with −1e-9 for −1e9",
        formula=r"\operatorname{softmax}(S \odot M) V",
        shows="what is masked has the score 0, which is a score like others",
        seen="a mask taken for a weight",
        knob="mask",
        setting="zero",
    ),
    Mistake(
        name="mask after softmax",
        says="weights are multiplied by the mask after the softmax",
        formula=r"(\operatorname{softmax}(S) \odot M) V",
        shows="weights do not sum to 1",
        seen="a mask taken for a weight",
        knob="mask",
        setting="after",
    ),
    Mistake(
        name="mask finite",
        says=(
            "hidden scores are set to −1e9, not to −∞: a query that may attend nothing gets "
            "the mean of all values"
        ),
        formula="s_{ij} = -10^9",
        shows="padding leaks where everything is padding",
        seen="many tutorials",
        knob="mask",
        setting="finite",
    ),
    Mistake(
        name="mask transposed",
        says="the mask is transposed",
        formula=r"m_{ji} \text{ for } m_{ij}",
        shows="a causal mask shows the future and hides the past",
        seen="triu for tril",
        knob="mask",
        setting="transposed",
    ),
    Mistake(
        name="mask leaves NaN",
        says="a query that may attend nothing gets NaN: a softmax of −∞ alone",
        formula=r"\operatorname{softmax}(-\infty, \dots, -\infty) = \tfrac00",
        shows="NaN where everything is padding",
        seen="torch.nn.MultiheadAttention when asked for weights",
        knob="mask",
        setting="NaN",
    ),
)

# Forms of a mistake above, which bear its name.
FORMS = (
    Mistake(
        name="mask finite",
        says=(
            "−1e9 is added to hidden scores, not −∞: a query that may attend nothing attends "
            "every key"
        ),
        formula="s_{ij} - 10^9",
        shows="padding leaks where everything is padding",
        seen="many tutorials",
        knob="mask",
        setting="finite added",
    ),
)

CAUSAL = (
    Mistake(
        name="causal ignored",
        says="it is not causal: a query sees the keys after it",
        formula=r"\operatorname{softmax}(S) V",
        shows="a later token changes an earlier output",
        seen="a forgotten flag",
        knob="causal",
        setting="ignored",
    ),
    Mistake(
        name="causal excludes own key",
        says="a causal query does not see its own key",
        formula="j < i",
        shows="the first query may attend nothing",
        seen="an index off by one",
        knob="causal",
        setting="strict",
    ),
    Mistake(
        name="causal sees one ahead",
        says="a causal query sees one key too many",
        formula=r"j \le i + 1",
        shows="the next token changes the output",
        seen="an index off by one",
        knob="causal",
        setting="one ahead",
    ),
    Mistake(
        name="causal backwards",
        says="a causal query sees the keys after it, not those before",
        formula=r"j \ge i",
        shows="the last query sees its own key only",
        seen="triu for tril",
        knob="causal",
        setting="backwards",
    ),
    Mistake(
        name="causal at the wrong corner",
        says=(
            "with unequal lengths the causal mask starts at the lower right corner, not at "
            "the upper left"
        ),
        formula=r"j \le i + (S - L)",
        shows="only where L and S differ",
        seen="is_causal of flash-attn against PyTorch's",
        knob="causal",
        setting="lower right",
    ),
    Mistake(
        name="causal unasked",
        says="it is causal, though it was not asked to be",
        formula=r"j \le i",
        shows="a query does not see the keys after it",
        seen="a decoder's function",
        knob="causal",
        setting="always",
    ),
)
