'use strict';

// What one can do with a page of a run: point at a chart, filter layers, copy code. The numbers stand in the page.

/** Say what is under the pointer of a chart, beside it. */
function pointAt(chart) {
  const says = el('div', { class: 'says', hidden: true, 'aria-hidden': 'true' });
  chart.after(says);
  const pointer = chart.querySelector('.pointer');
  const leave = () => {
    says.hidden = true;
    pointer.classList.remove('on');
  };
  const enter = (event) => {
    const spot = event.target.closest?.('.spot');
    if (!spot) return leave();
    says.textContent = spot.dataset.says;
    says.hidden = false;
    pointer.setAttribute('transform', `translate(${spot.dataset.x},0)`);
    pointer.classList.add('on');
  };
  chart.addEventListener('pointermove', enter);
  chart.addEventListener('pointerdown', enter);
  chart.addEventListener('pointerleave', leave);
}

function filterRows(input) {
  const rows = [...byId(input.getAttribute('aria-controls')).tBodies[0].rows];
  const said = input.parentElement.querySelector('.filtered');
  const texts = rows.map((row) => row.cells[0].textContent.toLowerCase());
  input.addEventListener('input', () => {
    const query = input.value.trim().toLowerCase();
    rows.forEach((row, i) => { row.hidden = !texts[i].includes(query); });
    const shown = rows.filter((row) => !row.hidden).length;
    said.textContent = query ? `${whole(shown)} of ${plural(rows.length, 'layer')}` : plural(rows.length, 'layer');
  });
}

/** From a file the clipboard may be closed: then the code is selected, for the user to copy. */
async function copyCode(button) {
  const code = button.closest('.snippet').querySelector('code');
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = 'Copied';
  } catch {
    getSelection().selectAllChildren(code);
    button.textContent = document.execCommand('copy') ? 'Copied' : 'Selected';
  }
  byId('said').textContent = button.textContent;
  setTimeout(() => { button.textContent = 'Copy'; }, 2000);
}

document.querySelectorAll('svg.course').forEach(pointAt);
document.querySelectorAll('input.filter').forEach(filterRows);
document.querySelectorAll('button.copy').forEach((button) => button.addEventListener('click', () => copyCode(button)));
