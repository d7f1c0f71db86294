// Images that are to be sent with the next message: chosen, pasted or dropped.

import { make } from "./markdown.js";

const TYPES = ["image/png", "image/jpeg", "image/webp"];
/** Bytes of all images together: base64 makes them a third longer, and a request has its limit. */
const MOST_BYTES = 10 * 1024 * 1024;

/** @type {{name: string, url: string, size: number}[]} */
let waiting = [];

function read(file) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => failed(reader.error);
    reader.readAsDataURL(file);
  });
}

/** Small pictures; each with a button that removes it, where `remove` is given. */
export function thumbnails(images, remove) {
  return images.map(({ name, url }, index) => {
    const picture = make("img", "");
    picture.src = url;
    picture.alt = name;
    const figure = make("figure", "", picture);
    if (remove) {
      const button = make("button", "", "×");
      button.type = "button";
      button.title = `Remove ${name}`;
      button.setAttribute("aria-label", button.title);
      button.addEventListener("click", () => remove(index));
      figure.append(button);
    }
    return figure;
  });
}

/**
 * Lets images come into the page.
 * @param {{tray: HTMLElement, place: HTMLElement, input: HTMLElement, chooser: HTMLInputElement, say: (text: string) => void}} page
 */
export function takeImages({ tray, place, input, chooser, say }) {
  const draw = () => {
    tray.hidden = !waiting.length;
    tray.replaceChildren(...thumbnails(waiting, (index) => {
      waiting.splice(index, 1);
      draw();
      input.focus();
    }));
  };
  const add = async (files) => {
    for (const file of files) {
      if (!TYPES.includes(file.type)) {
        say(`${file.name}: expected a PNG, JPEG or WebP image`);
        continue;
      }
      const held = waiting.reduce((sum, image) => sum + image.size, 0);
      if (held + file.size > MOST_BYTES) {
        say(`${file.name}: the images are too large`);
        continue;
      }
      const image = { name: file.name || "image", url: "", size: file.size };
      waiting.push(image);
      try {
        image.url = await read(file);
      } catch {
        waiting = waiting.filter((other) => other !== image);
        say(`${file.name}: cannot be read`);
      }
    }
    draw();
  };
  chooser.addEventListener("change", async () => {
    await add([...chooser.files]);
    chooser.value = "";
    input.focus();
  });
  input.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length) return;
    event.preventDefault();
    add(files);
  });
  place.addEventListener("dragover", (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    place.classList.add("dropping");
  });
  place.addEventListener("dragleave", () => place.classList.remove("dropping"));
  place.addEventListener("drop", (event) => {
    place.classList.remove("dropping");
    const files = [...(event.dataTransfer?.files ?? [])];
    if (!files.length) return;
    event.preventDefault();
    add(files);
  });
  return {
    /** Those that are ready; they are no longer waiting then. */
    take() {
      const taken = waiting.filter((image) => image.url);
      waiting = [];
      draw();
      return taken;
    },
    any: () => waiting.some((image) => image.url),
  };
}
