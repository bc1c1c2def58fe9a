'use strict';
// One image and one question at a time. An answer counts when the server has it on its disk: until then the page waits,
// sends it again if it must, always with the same key, and takes no other. Texts of others are only ever textContent.

const $ = (id) => document.getElementById(id);
const RETRY_MS = 1000;
const SKIP = 'skip';
let annotator = '', images = [], answers = {}, questions = [];
let at = 0, step = 0, draft = {};  // the image shown, the question shown, the answers to those before
let busy = true, reviewing = false, turn = 0;  // busy: no answer is taken
let blobs = new Map();  // key -> promise of a blob's URL, of the images around the one shown

function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

function tell(text) { $('notice').textContent = text; }

async function post(path, body) {
  for (;;) {
    let value, status;
    try {
      const answer = await fetch(path, {
        method: 'POST', headers: {'Content-Type': 'application/json'}, body: JSON.stringify(body)});
      status = answer.status;
      value = await answer.json();
    } catch (error) {
      status = 0;
    }
    if (status === 200) { tell(''); return value; }
    if (status >= 400 && status < 500 && value) { tell(value.error); return null; }
    tell(value && value.error ? `${value.error}. Trying again …` :
         'Not saved yet: the server does not answer. Trying again …');
    await new Promise((done) => setTimeout(done, RETRY_MS));
  }
}

function asQuestions(asked) {
  const rated = {valence: ['How pleasant is what it evokes?', 'very unpleasant', 'very pleasant'],
                 arousal: ['How exciting is what it evokes?', 'very calm', 'very excited'],
                 dominance: ['How much in control does it make one feel?', 'controlled', 'in control']};
  const found = [];
  if (asked.labels.length) found.push({name: 'label', text: 'Which of these does the image evoke?', choices: asked.labels});
  if (asked.styles.length) found.push({name: 'style', text: 'Which style is it?', choices: asked.styles});
  for (const name of asked.ratings) {
    const points = asked.high - asked.low + 1;
    const [question, least, most] = rated[name];
    const text = `${question} ${asked.low}: ${least}, ${asked.high}: ${most} (${name})`;
    found.push(points > 9 ? {name, text, low: asked.low, high: asked.high} :
               {name, text, choices: Array.from({length: points}, (_, place) => asked.low + place)});
  }
  return found;
}

async function begin(name) {
  const found = await post('/begin', {annotator: name});
  if (!found) { leave(); return; }
  ({annotator, images, answers} = found);
  questions = asQuestions(found.questions);
  sessionStorage.setItem('annotator', annotator);
  $('annotator').textContent = annotator;
  for (const id of ['leave', 'finish', 'bar']) $(id).hidden = false;
  $('welcome').hidden = true;
  await show(nextOpen(-1));
  if (found.known) tell(`Welcome back, ${annotator}. If you are someone else with this name, choose another.`);
}

function leave() {
  const said = $('notice').textContent;
  sessionStorage.removeItem('annotator');
  annotator = '';
  busy = true;
  turn++;
  for (const id of ['work', 'end', 'leave', 'finish', 'bar']) $(id).hidden = true;
  for (const id of ['annotator', 'progress', 'counts', 'said']) $(id).textContent = '';
  $('welcome').hidden = false;
  $('name').value = '';
  $('name').focus();
  tell(said);
}

function nextOpen(after) {
  const open = (key) => reviewing ? answers[key] === SKIP : !(key in answers);
  const place = images.findIndex((key, place) => place > after && open(key));
  if (place >= 0) return place;
  reviewing = false;
  return images.length;
}

function blobOf(key) {
  if (!blobs.has(key)) {
    blobs.set(key, fetch(`/image/${key}`).then(async (answer) => {
      if (!answer.ok) throw new Error((await answer.json()).error);
      return URL.createObjectURL(await answer.blob());
    }));
    blobs.get(key).catch(() => {});
  }
  return blobs.get(key);
}

function keepBlobs(keys) {
  for (const [key, blob] of blobs) {
    if (!keys.includes(key)) {
      blobs.delete(key);
      blob.then(URL.revokeObjectURL, () => {});
    }
  }
}

async function show(place) {
  at = Math.max(0, Math.min(place, images.length));
  step = 0;
  draft = {};
  busy = true;
  const mine = ++turn;
  const ended = at === images.length;
  tell('');
  $('work').hidden = ended;
  $('end').hidden = !ended;
  renderProgress();
  if (ended) {
    busy = false;
    $('skipped').hidden = !Object.values(answers).includes(SKIP);
    return;
  }
  renderQuestion();
  const image = $('image');
  image.removeAttribute('src');
  keepBlobs(images.slice(Math.max(0, at - 1), at + 3));
  while (mine === turn) {
    try {
      const url = await blobOf(images[at]);
      if (mine !== turn) return;
      image.src = url;
      image.alt = `image ${at + 1} of ${images.length}`;
      await image.decode();
      break;
    } catch (error) {
      if (mine !== turn) return;
      blobs.delete(images[at]);
      const down = error instanceof TypeError;  // what fetch raises if there is no server
      tell(down ? 'The server does not answer. Trying again …' :
           `This image cannot be shown: ${error.message}. Press S to skip it.`);
      if (!down) { draft = null; break; }
      await new Promise((done) => setTimeout(done, RETRY_MS));
    }
  }
  if (mine !== turn) return;
  if (draft) tell('');
  busy = false;
  renderQuestion();
  images.slice(at + 1, at + 3).forEach(blobOf);
}

function renderProgress() {
  const given = Object.values(answers), skipped = given.filter((answer) => answer === SKIP).length;
  $('progress').textContent = at < images.length ? `${at + 1} of ${images.length}` : `all ${images.length} seen`;
  $('counts').textContent = `${given.length - skipped} answered, ${skipped} skipped`;
  $('bar').max = images.length;
  $('bar').value = given.length;
}

function renderQuestion() {
  const question = questions[step], place = $('choices');
  const earlier = draft && question.name in draft ? draft[question.name] : (answers[images[at]] || {})[question.name];
  $('question').textContent = question.text;
  place.replaceChildren();
  if (!question.choices) { renderNumber(question, earlier); return; }
  question.choices.forEach((choice, number) => {
    const button = document.createElement('button');
    if (number < 9 && choice !== number + 1) {
      const key = document.createElement('kbd');
      key.textContent = number + 1;
      button.append(key);
    }
    button.append(document.createTextNode(choice));
    button.setAttribute('aria-pressed', choice === earlier);
    button.disabled = busy || !draft;
    button.onclick = () => choose(choice);
    place.append(button);
  });
}

function renderNumber(question, earlier) {
  const input = document.createElement('input');
  Object.assign(input, {type: 'number', min: question.low, max: question.high, step: 1, id: 'number'});
  if (earlier !== undefined) input.value = earlier;
  input.disabled = busy || !draft;
  input.onkeydown = (event) => {
    const value = Number(input.value);
    if (event.key !== 'Enter' || event.repeat) return;
    if (input.value === '' || !Number.isInteger(value) || value < question.low || value > question.high) {
      tell(`Type a whole number from ${question.low} to ${question.high}, then Enter.`);
    } else {
      tell('');
      choose(value);
    }
  };
  $('choices').append(input);
  if (!input.disabled) input.focus();
}

async function choose(value) {
  if (busy || !draft || at >= images.length) return;
  draft[questions[step].name] = value;
  if (step + 1 < questions.length) {
    step++;
    renderQuestion();
    return;
  }
  await act('vote', {image: images[at], answer: draft});
}

async function act(kind, what) {
  busy = true;
  const mine = ++turn;
  disableChoices();
  const saved = await post('/act', {key: newKey(), annotator, kind, ...what});
  if (mine !== turn) return;  // another annotator has come since
  if (!saved) { const said = $('notice').textContent; await show(at); tell(said); return; }
  if (saved.answer === null) delete answers[saved.image]; else answers[saved.image] = saved.answer;
  const place = images.indexOf(saved.image);
  if (kind === 'undo') show(place < 0 ? at : place); else show(nextOpen(at));
}

function disableChoices() {
  for (const button of $('choices').querySelectorAll('button, input')) button.disabled = true;
}

function undo() {
  if (busy || !annotator) return;
  if (step > 0) {
    step--;
    renderQuestion();
  } else {
    act('undo', {});
  }
}

function skip() {
  if (!busy && at < images.length) act('skip', {image: images[at]});
}

function move(by) {
  if (!busy && images.length) show(at + by);
}

async function finish() {
  const done = await post('/finish', {});
  if (done) $('said').textContent = done.said;
}

document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !annotator) return;
  const typing = event.target.tagName === 'INPUT';
  const work = {u: undo, U: undo, Backspace: undo, s: skip, S: skip,
                ArrowLeft: () => move(-1), ArrowRight: () => move(1)}[event.key];
  if (work && !(typing && (event.key === 'Backspace' || event.key.startsWith('Arrow')))) {
    event.preventDefault();
    if (!event.repeat) work();
  } else if (!typing && /^[1-9]$/.test(event.key) && !event.repeat && at < images.length) {
    const choices = questions[step].choices || [];
    if (event.key <= choices.length) choose(choices[event.key - 1]);
  }
});

for (const [id, work] of Object.entries({
    start: () => begin($('name').value), leave, back: () => move(-1), forward: () => move(1), undo, skip, finish,
    skipped: () => { reviewing = true; show(nextOpen(-1)); }})) {
  $(id).addEventListener('click', (event) => { event.target.blur(); work(); });
}
$('name').addEventListener('keydown', (event) => { if (event.key === 'Enter') begin($('name').value); });
if (sessionStorage.getItem('annotator')) begin(sessionStorage.getItem('annotator'));
