"""All figures of a diversity report."""

from __future__ import annotations

from collections.abc import Callable

from fedllm_bench.report.diversity import against, maps, quality, sizes, spread, sunburst
from fedllm_bench.report.diversity.frame import Drawing, Frame

# name -> what draws it, and gives None where its section was skipped; the order of page and card
FIGURES: dict[str, Callable[[Frame], Drawing | None]] = {
    "quantity": sizes.quantity,
    "length": sizes.length,
    "language": sizes.language,
    "instruction_sunburst": sunburst.instruction_sunburst,
    "instruction_clients": sunburst.instruction_clients,
    "topics_by_client": maps.topics_by_client,
    "map_by_language": maps.map_by_language,
    "map_by_client": maps.map_by_client,
    "similarity": spread.similarity,
    "distance_to_rest": spread.distance_to_rest,
    "heterogeneity": spread.heterogeneity,
    "quality": quality.quality,
    "preference": quality.preference,
    "against": against.against,
}


def draw_all(frame: Frame) -> list[Drawing]:
    """Write every figure that there are numbers for."""
    found = [draw(frame) for draw in FIGURES.values()]
    return [drawing for drawing in found if drawing is not None]


CAPTIONS = {
    "quantity": "Left: rows of each client. Right: the lower the curve, the more rows few clients have.",
    "length": "From the shortest to the longest text of a client, with its median and mean, on a logarithmic axis.",
    "language": "Rows of each language, and what share of each client's rows is in which, by the upstream's column.",
    "instruction_sunburst": "Inside the topics (or root verbs), outside their parts (or direct objects). Angles are "
    "shares of rows; terms are those that tell a topic from the others.",
    "instruction_clients": "The same colours, for single clients: a client of one colour asks for one kind of thing.",
    "topics_by_client": "A column is a client: bright cells are topics that it keeps to.",
    "map_by_language": "A point is a row. In PCA distances mean something; in t-SNE only who is near whom.",
    "map_by_client": "The same points, by client. Clients that differ in more than language have places of their own.",
    "similarity": "Bright squares along the diagonal are clients who write alike; the strip shows main languages.",
    "distance_to_rest": "How far a client's rows are from all others': unbiased MMD², 0 for a client like the crowd.",
    "heterogeneity": "Grey: the index where rows are dealt to users at random, within strata and over the whole split. "
    "Users differ where their line is beyond the grey.",
    "quality": "IFD: the loss of the completion given the prompt, over that of the completion alone.",
    "preference": "Blue: the mean difference, chosen less rejected, with its 95% interval. Grey: single clients.",
    "against": "Where one curve is left of the other, its clients have less of the measure.",
}
