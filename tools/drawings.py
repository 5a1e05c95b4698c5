"""Draw the book's schematic pictures as SVG: python tools/drawings.py writes them to book/_static/drawings.

A drawing is 480 units wide and its text 14 high, so that on a phone of 390 pixels the text has 10 pixels. Colors are
CSS variables with a default. The site puts the SVG into the page, where its style sheet sets the variables for light
and dark; elsewhere, as in Colab, the picture is shown with the defaults on its own white paper.
"""

import math
from pathlib import Path
from xml.sax.saxutils import escape

FOLDER = Path(__file__).parents[1] / "book" / "_static" / "drawings"
COLORS = {"ink": "#1f2328", "soft": "#59636e", "line": "#8c959f", "fill": "#eef1f4", "paper": "#ffffff",
          "blue": "#0173b2", "orange": "#b35900", "green": "#027a59", "gray": "#808080"}


def color(name):
    return "none" if name == "none" else f"var(--drawing-{name}, {COLORS[name]})"


def style(fill="none", stroke="none", width=1.5, dash="", opacity=1.0):
    parts = [f"fill:{color(fill)}", f"stroke:{color(stroke)}", f"stroke-width:{width:g}"]
    if dash:
        parts.append(f"stroke-dasharray:{dash}")
    if opacity < 1:
        parts.append(f"fill-opacity:{opacity:g}")
    return f'style="{";".join(parts)}"'


def text(x, y, words, at="middle", ink="ink", size=14, bold=False, italic=False):
    """Words; lines are divided by line breaks, and y is the base of the first."""
    look = f"fill:{color(ink)}" + (";font-weight:600" if bold else "") + (";font-style:italic" if italic else "")
    return "".join(f'<text x="{x:g}" y="{y + 17 * n:g}" text-anchor="{at}" font-size="{size}" style="{look}">'
                   f"{escape(line)}</text>" for n, line in enumerate(words.split("\n")))


def box(x, y, width, height, words="", stroke="line", fill="fill", ink="ink", radius=6, dash="", bold=False):
    lines = words.split("\n") if words else []
    top = y + height / 2 + 5 - 8.5 * (len(lines) - 1)
    frame = (f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius}" '
             f"{style(fill, stroke, dash=dash)}/>")
    return frame + (text(x + width / 2, top, words, ink=ink, bold=bold) if words else "")


def path(d, stroke="ink", width=1.5, dash="", fill="none", opacity=1.0):
    return f'<path d="{d}" {style(fill, stroke, width, dash, opacity)}/>'


def circle(x, y, r, fill="ink", stroke="none", opacity=1.0, width=1.5):
    return f'<circle cx="{x:g}" cy="{y:g}" r="{r:g}" {style(fill, stroke, width, opacity=opacity)}/>'


def head(x, y, angle, ink):
    points = [(x + size * math.cos(angle + turn), y + size * math.sin(angle + turn))
              for size, turn in ((0, 0), (9, math.pi - 0.4), (9, math.pi + 0.4))]
    return f'<polygon points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in points)}" {style(ink)}/>'


def arrow(*points, ink="ink", width=1.5, dash=""):
    """A line through the points, with a head at its end."""
    (a, b), (x, y) = points[-2:]
    angle = math.atan2(y - b, x - a)
    ends = [*points[:-1], (x - 6 * math.cos(angle), y - 6 * math.sin(angle))]
    return (path("M" + " L".join(f"{p:.1f} {q:.1f}" for p, q in ends), ink, width, dash) + head(x, y, angle, ink))


def spring(x1, y1, x2, y2, ink, turns=7, wide=7, width=1.5):
    length, angle = math.dist((x1, y1), (x2, y2)), math.atan2(y2 - y1, x2 - x1)
    places = [(0, 0)] + [((n + 0.5) / (2 * turns), wide * (-1) ** n) for n in range(2 * turns)] + [(1, 0)]
    points = [(x1 + at * length * math.cos(angle) - off * math.sin(angle),
               y1 + at * length * math.sin(angle) + off * math.cos(angle)) for at, off in places]
    return path("M" + " L".join(f"{p:.1f} {q:.1f}" for p, q in points), ink, width)


def nine(x, y, size, ink="ink", width=3.0):
    """A written 9 in a square, as a picture of a digit."""
    s = size / 40
    return (box(x, y, size, size, radius=3) + path(
        f"M{x + 26 * s:.1f} {y + 16 * s:.1f} a{7 * s:.1f} {7 * s:.1f} 0 1 1 0 {-3 * s:.1f} "
        f"c{1 * s:.1f} {8 * s:.1f} {-1 * s:.1f} {14 * s:.1f} {-4 * s:.1f} {20 * s:.1f}", ink, width))


def cvae():
    parts = [nine(8, 96, 52), text(34, 168, "image x"),
             path("M92 76 L164 100 L164 144 L92 168 Z", "blue", fill="fill"), text(127, 127, "encoder", bold=True),
             path("M316 100 L388 76 L388 168 L316 144 Z", "green", fill="fill"), text(353, 127, "decoder", bold=True),
             box(200, 98, 80, 48, "code z\n(style)"), nine(420, 96, 52), text(446, 168, "drawing"),
             arrow((62, 122), (90, 122)), arrow((166, 122), (198, 122)), arrow((282, 122), (314, 122)),
             arrow((390, 122), (418, 122)),
             box(170, 8, 140, 30, "label y (class)", "orange", ink="orange", bold=True),
             arrow((170, 23), (127, 23), (127, 86), ink="orange", width=2),
             arrow((310, 23), (353, 23), (353, 86), ink="orange", width=2),
             text(116, 50, "1", ink="orange", bold=True), text(364, 50, "2", ink="orange", bold=True),
             arrow((240, 196), (240, 149), dash="4 3", ink="soft"),
             text(240, 212, "to draw: no encoder, z from N(0, I)", ink="soft"),
             ]
    return 224, "A conditional VAE: the label y enters the encoder and the decoder.", parts


def ewc():
    parts = [f'<ellipse cx="180" cy="200" rx="145" ry="50" {style("blue", "blue", opacity=0.12)}/>',
             f'<ellipse cx="180" cy="200" rx="85" ry="28" {style("none", "blue", 1)}/>',
             f'<ellipse cx="350" cy="128" rx="118" ry="66" {style("gray", "soft", opacity=0.18)}/>',
             f'<ellipse cx="350" cy="128" rx="88" ry="47" {style("none", "soft", 1)}/>',
             arrow((180, 200), (342, 133), ink="soft", dash="5 4"), circle(350, 130, 5, "soft"),
             text(350, 46, "here the forgotten class is gray", ink="ink"), text(350, 114, "gray term alone", ink="ink"),
             spring(180, 200, 282, 180, "orange", 6, 7), circle(282, 180, 6, "orange"),
             text(340, 222, "with the penalty:\nboth are good", "start", "orange", bold=True),
             circle(180, 200, 6, "blue"), text(166, 205, "θ*", "end", "blue", bold=True),
             text(126, 118, "here the retained\nclasses are good", ink="blue", bold=True),
             arrow((24, 286), (150, 286), ink="ink"), text(160, 291, "a weight with a small F: a loose band", "start"),
             arrow((24, 286), (24, 70), ink="ink"), text(8, 26, "a weight with a large F:\na stiff band", "start")]
    return 302, "Two valleys of the loss: the elastic band pulls the weights back to where both losses are low.", parts


def loss():
    rows = [("real images of\nthe classes to keep", "model", "−ELBO", "blue"),
            ("replay: drawn by the\nfrozen original", "model", "−ELBO", "blue"),
            ("the weights, and\nthe Fisher F", "", "λ/2 Σ F (θ − θ*)²", "orange"),
            ("label to forget,\nz from N(0, I)", "decoder", "γ · |image − gray|", "soft")]
    parts = []
    for n, (source, by, term, ink) in enumerate(rows):
        y = 12 + 68 * n
        parts += [box(6, y, 150, 48, source)]
        if by:
            parts += [arrow((158, y + 24), (178, y + 24)), box(180, y + 8, 72, 32, by, "green", bold=True),
                      arrow((254, y + 24), (276, y + 24))]
        else:
            parts += [arrow((158, y + 24), (276, y + 24))]
        parts += [box(278, y + 4, 152, 40, term, ink, ink=ink, bold=True),
                  path(f"M430 {y + 24} L452 {y + 24}", "ink")]
    parts += [path("M452 36 L452 240", "ink"), arrow((452, 240), (452, 276)),
              box(404, 278, 72, 32, "loss L", bold=True), text(6, 299, "keep", "start", "blue", bold=True),
              text(56, 299, "stay near", "start", "orange", bold=True),
              text(140, 299, "forget", "start", "soft", bold=True)]
    return 320, "The four terms of the loss and where each comes from.", parts


def fisher():
    values = [3, -2, 1, -2]
    mean = sum(value**2 for value in values) / len(values)
    parts = [text(62, 22, "4 gradients", bold=True), text(232, 22, "square each", ink="green", bold=True),
             text(404, 22, "then the mean", ink="green", bold=True)]
    for n, value in enumerate(values):
        left, right = 14 + 25 * n, 182 + 26 * n
        top, high = 118 - 14 * max(value, 0), 8 * value**2
        parts += [f'<rect x="{left}" y="{top}" width="16" height="{14 * abs(value)}" {style("blue")}/>',
                  text(left + 8, top - 5 if value > 0 else 133 - 14 * value, f"{value:+d}".replace("-", "−")),
                  f'<rect x="{right}" y="{118 - high}" width="16" height="{high}" {style("green")}/>',
                  text(right + 8, 113 - high, str(value**2))]
    parts += [path("M8 118 L116 118"), path("M176 118 L286 118"), path("M374 118 L434 118"),
              arrow((124, 90), (168, 90)), arrow((294, 90), (366, 90)),
              f'<rect x="392" y="{118 - 8 * mean:g}" width="24" height="{8 * mean:g}" {style("green")}/>',
              text(404, 138, f"{mean:g}: the Fisher", ink="green", bold=True),
              text(232, 178, "the mean first", ink="orange", bold=True),
              text(404, 178, "then square it", ink="orange", bold=True),
              arrow((62, 168), (62, 214), (168, 214)), path("M176 214 L286 214"),
              text(232, 206, "0: they cancel", ink="orange"), arrow((294, 214), (366, 214)), path("M374 214 L434 214"),
              text(404, 206, "0", ink="orange", bold=True),
              text(404, 234, "the usual mistake", ink="orange", bold=True)]
    return 246, "Four gradients squared before the mean give 4.5, and after the mean 0.", parts


def simplex():
    a, b, c = (200, 34), (24, 270), (376, 270)
    parts = [path(f"M{a[0]} {a[1]} L{b[0]} {b[1]} L{c[0]} {c[1]} Z", "ink", fill="fill"),
             path(f"M{a[0]} {a[1]} L{a[0] - 41} {a[1] + 55} Q{a[0]} {a[1] + 74} {a[0] + 41} {a[1] + 55} Z", "none",
                  fill="gray", opacity=0.55)]
    for (x, y), name, off, at in ((a, "label 9, forgotten", -12, "middle"), (b, "label 4", 22, "start"),
                                  (c, "label 7", 22, "middle")):
        parts += [circle(x, y, 5), text(x - 10 * (at == "start"), y + off, name, at, bold=True)]
    parts += [text(258, 70, "a corner is a label;\nhere it leads to gray", "start", "soft"),
              circle(200, 270, 4), text(200, 292, "an edge: a mixture of two", ink="ink"),
              arrow((190, 92), (176, 126), (188, 160), (168, 192), (152, 218), ink="orange", width=2.5),
              circle(190, 92, 4, "orange"), circle(149, 222, 6, "orange"),
              path("M158 219 L330 184", "orange", 1, "3 3"),
              text(332, 150, "the attacker stops\nwhere the drawing\nis most like a 9", "start", "orange", bold=True)]
    return 306, "The simplex of labels: corners are labels, and an attacker looks for the best mixture inside.", parts


def rho():
    zero, one, y = 216, 410, 96
    parts = [f'<rect x="{zero - 26}" y="{y - 18}" width="52" height="36" {style("green", opacity=0.2)}/>',
             path(f"M20 {y} L462 {y}", "ink", 2), head(470, y, 0, "ink"), head(12, y, math.pi, "ink"),
             *(path(f"M{x} {y - 9} L{x} {y + 9}", "ink", 2) for x in (zero, one)),
             text(zero, y - 50, "gone", ink="green", bold=True), text(zero, y - 31, "within the margin", ink="green"),
             text(76, y - 50, "over-forgotten", ink="blue", bold=True), text(76, y - 31, "damaged", ink="blue"),
             text(340, y - 50, "residue", ink="orange", bold=True), text(340, y - 31, "part is left", ink="orange"),
             text(zero, y + 36, "ρ = 0", bold=True), text(zero, y + 54, "as if never seen:\nE never"),
             text(one, y + 36, "ρ = 1", bold=True), text(one, y + 54, "nothing forgotten:\nE baseline"),
             text(64, y + 36, "ρ < 0", bold=True), text(64, y + 54, "worse than one\nthat never saw it"),
             arrow((420, 22), (60, 22), ink="soft"), text(240, 16, "the attacker's error E grows", ink="soft", )]
    return 184, "A line of numbers for rho: below 0 over-forgotten, near 0 gone, up to 1 nothing forgotten.", parts


def timeline():
    parts, xs = [], (66, 190, 314, 428)
    names = ("baseline", "step 1", "step 2", "step 3 …")
    rows = {"draws": ("0 … 9", "not 9", "not 9, 2", "not 9, 2, 8"),
            "to gray": ("", "9", "2, and 9", "8, and 9, 2"),
            "Fisher of": ("", "9 classes", "8 classes", "7 classes")}
    for n, (x, name) in enumerate(zip(xs, names)):
        parts += [circle(x, 44, 14, "fill", "blue" if n == 0 else "orange", width=2), text(x, 20, name, bold=True)]
        if n:
            parts += [arrow((xs[n - 1] + 18, 44), (x - 17, 44), ink="ink")]
    parts += [spring(80, 62, 176, 62, "soft", 8, 4, 1), spring(204, 62, 300, 62, "soft", 8, 4, 1),
              spring(328, 62, 414, 62, "soft", 8, 4, 1),
              text(240, 88, "each step is anchored at the model before it", ink="soft")]
    for m, (row, cells) in enumerate(rows.items()):
        y = 118 + 30 * m
        parts += [path(f"M8 {y - 20} L472 {y - 20}", "line", 1), text(8, y, row, "start", "soft" if m else "soft")]
        parts += [text(x if n or m else x + 40, y, cell, ink="ink" if m != 1 else "orange", bold=m == 1)
                  for n, (x, cell) in enumerate(zip(xs, cells)) if cell]
    return 192, "A chain of steps: each forgets one more class and keeps the earlier ones at gray.", parts


def mending():
    parts, zero = [text(8, 137, "ρ = 0", "start")], 132
    for left, title, residue in ((50, "a residue and damage", 58), (270, "damage alone", 0)):
        parts += [text(left + 100, 22, title, bold=True), path(f"M{left} {zero} L{left + 200} {zero}", "line", 1.5)]
        for x, damage, name in ((left + 36, 58, "as it is"), (left + 156, 0, "mended")):
            if residue:
                parts += [arrow((x, zero), (x, zero - residue), ink="orange", width=3)]
            if damage:
                parts += [arrow((x + 22, zero - residue), (x + 22, zero - residue + damage - 6), ink="blue", width=3),
                          path(f"M{x} {zero - residue} L{x + 22} {zero - residue}", "line", 1, "3 3")]
            at, place = zero - residue + damage, x + (22 if damage else 0)
            parts += [circle(place, at, 7, "paper", "ink", width=2.5), text(x + 6, 222, name)]
        parts += [arrow((left + 72, 217), (left + 124, 217), ink="soft")]
    parts += [text(66, 62, "residue", ink="orange", bold=True), text(118, 106, "damage", "start", "blue", bold=True),
              text(338, 172, "damage", "start", "blue", bold=True), text(220, 80, "ρ", "start", bold=True),
              text(150, 248, "ρ rises above 0:\nsomething is there", ink="orange", bold=True),
              text(370, 248, "ρ rises to 0:\nnothing was hidden", ink="green", bold=True)]
    return 274, "Damage lowers rho and hides a residue; after mending the residue shows.", parts


def response():
    """Images of the class that models saw -> rho on the simplex and the ends of its interval, off the kept table."""
    import torch  # the other drawings need no library

    from sa_lib import residual, validation
    errors = {key[3]: torch.from_numpy(rows) for key, rows in validation.errors(validation.read()).items()
              if key[:3] == ("y on the simplex", "dose", "saw")}
    nothing, *between, everything = sorted(errors)
    found = {k: residual.residual_knowledge(errors[nothing], errors[k], errors[everything]) for k in between}
    return {k: (one.rho, one.low, one.high) for k, one in found.items()}, everything, residual.MARGIN


def dose():
    found, everything, margin = response()
    xs = {0: 62, **{k: 142 + 78 * n for n, k in enumerate(found)}, everything: 448}

    def y(rho):
        return 204 - 150 * rho

    line = [(xs[0], y(0)), *((xs[k], y(values[0])) for k, values in found.items()), (xs[everything], y(1))]
    parts = [f'<rect x="46" y="{y(margin):.1f}" width="418" height="{300 * margin:.1f}" '
             f'{style("green", opacity=0.2)}/>', text(460, y(0) + 5, "the margin of gone", "end", "green", bold=True),
             path(f"M46 {y(1)} L464 {y(1)}", "line", 1, "3 3"), path("M46 24 L46 244"), path("M46 244 L464 244"),
             *(text(38, y(level) + 5, f"{level:g}", "end") for level in (0, 0.5, 1)),
             text(14, 26, "ρ", "start", bold=True),
             path("M" + " L".join(f"{a:.1f} {b:.1f}" for a, b in line), "blue", 2)]
    for k, (value, low, high) in found.items():
        parts += [path(f"M{xs[k]} {y(low):.1f} L{xs[k]} {y(high):.1f}", "blue"),
                  *(path(f"M{xs[k] - 5} {y(end):.1f} L{xs[k] + 5} {y(end):.1f}", "blue") for end in (low, high)),
                  circle(xs[k], round(y(value), 1), 5, "blue"),
                  text(xs[k] - 10, y(value) - 8, f"{value:.2f}", "end", "blue", bold=True)]
    parts += [circle(x, at, 5, "paper", "blue", width=2) for x, at in (line[0], line[-1])]
    parts += [text(x, 264, f"{k:,}" if k != everything else "all") for k, x in xs.items()]
    parts += [text(255, 286, "images of the class that the model saw", ink="soft"),
              text(58, 76, "0 and 1 by definition;\nthe rest is measured", "start", "soft")]
    return 296, "Dose and response: rho rises with the number of images of the class that a model saw.", parts


DRAWINGS = {"cvae": cvae, "ewc": ewc, "loss": loss, "fisher": fisher, "simplex": simplex, "rho": rho, "dose": dose,
            "timeline": timeline, "mending": mending}


def svg(name):
    """The text of a drawing's file."""
    height, title, parts = DRAWINGS[name]()
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 480 {height}" width="480" height="{height}" '
            f'font-family="system-ui, sans-serif">\n<title>{escape(title)}</title>\n'
            f'<rect width="480" height="{height}" {style("paper")}/>\n' + "\n".join(parts) + "\n</svg>\n")


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in DRAWINGS:
        (FOLDER / f"{name}.svg").write_text(svg(name), encoding="utf-8")
