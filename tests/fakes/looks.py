"""What a page must not look like: expressions for `fakes.browser.Page.evaluate`, each a list of what is wrong."""

VISIBLE = """
    const shown = (selector) => [...document.querySelectorAll(selector)].filter((one) => one.checkVisibility());
    const named = (one) => `${one.tagName} ${one.id || one.ariaLabel || one.innerText || one.name}`.slice(0, 60);
"""
OUTSIDE = f"""(() => {{ {VISIBLE}
    return shown('main button, main select, main input, main h2, main h3, main td, header button, header a')
        .filter((one) => {{
            const {{ left, right }} = one.getBoundingClientRect();
            return left < 0 || right > innerWidth;
        }}).map(named);
}})()"""
"""What stands beyond the edges of the window."""
OVERLAPPING = f"""(() => {{ {VISIBLE}
    const all = shown('main button, main select, main input:not([type=radio]), main h2, main h3, main td > *, main dd');
    const boxes = all.map((one) => [one, one.getBoundingClientRect()]).filter(([, box]) => box.width && box.height);
    const found = [];
    for (const [at, [one, a]] of boxes.entries()) for (const [other, b] of boxes.slice(at + 1)) {{
        const apart = a.right <= b.left + 1 || b.right <= a.left + 1 || a.bottom <= b.top + 1 || b.bottom <= a.top + 1;
        if (!apart && !one.contains(other) && !other.contains(one)) found.push(`${{named(one)}} / ${{named(other)}}`);
    }}
    return found;
}})()"""
"""What lies over something else."""
FAINT = f"""(() => {{ {VISIBLE}
    const canvas = document.createElement('canvas').getContext('2d', {{ willReadFrequently: true }});
    const rgba = (colour) => {{
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    }};
    const luminance = (colour) => {{
        const [r, g, b] = colour.map((part) => part / 255)
            .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    }};
    const behind = (one) => {{
        for (let at = one; at; at = at.parentElement) {{
            const colour = rgba(getComputedStyle(at).backgroundColor);
            if (colour[3] > 200) return colour;
        }}
        return [255, 255, 255, 255];
    }};
    return shown('h1, h2, h3, p, a, dt, dd, th, td, label, span, button:enabled, li, text.tick')
        .filter((one) => [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()))
        .map((one) => {{
            const style = getComputedStyle(one);
            const text = luminance(rgba(one.tagName === 'text' ? style.fill : style.color));
            const back = luminance(behind(one));
            return [(Math.max(text, back) + 0.05) / (Math.min(text, back) + 0.05), named(one)];
        }}).filter(([contrast]) => contrast < 4.5);
}})()"""
"""Text whose contrast is under 4.5 (WCAG 2.2, 1.4.3)."""
SMALL = f"""(() => {{ {VISIBLE}
    return shown('main button, main select, main input:not([type=radio]), header button, header a:not(.skip)')
        .filter((one) => {{
            const {{ width, height }} = one.getBoundingClientRect();
            return width < 24 || height < 24;
        }}).map(named);
}})()"""
"""What is too small for a finger (WCAG 2.2, 2.5.8)."""
WRONG = {"outside": OUTSIDE, "overlapping": OVERLAPPING, "faint": FAINT, "small": SMALL}
