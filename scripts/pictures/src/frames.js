// What Grafana's Prometheus data source makes of answers, and what its panels make of a field's configuration.
import { of } from 'rxjs';
import { createDataFrame, dateTime, FieldType, getDisplayProcessor, standardTransformers } from '@grafana/data';

const legendOf = (target, metric, panel) => {
  const format = target.legendFormat;
  if (format === '__auto') {
    return Object.values(metric).join(' ') || panel.title;
  }
  return format.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, label) => metric[label] ?? '');
};

function series(panel, target, results) {
  return results.map(({ metric, values, value }) => {
    const points = values ?? [value];
    const frame = createDataFrame({
      refId: target.refId,
      fields: [
        { name: 'Time', type: FieldType.time, values: points.map(([at]) => at * 1000), config: {} },
        {
          name: 'Value',
          type: FieldType.number,
          labels: metric,
          values: points.map(([, text]) => (text === 'NaN' ? null : Number(text))),
          config: { displayNameFromDS: legendOf(target, metric, panel) },
        },
      ],
    });
    return frame;
  });
}

function tables(panel, answers) {
  const full = answers.filter(({ results }) => results.length);
  return full.map(({ target, results }) => {
    const labels = [...new Set(results.flatMap(({ metric }) => Object.keys(metric)))].sort();
    const named = full.length > 1 ? `Value #${target.refId}` : 'Value';
    const column = (name, type, values) => ({ name, type, values, config: {} });
    return createDataFrame({
      refId: target.refId,
      fields: [
        column('Time', FieldType.time, results.map(({ value }) => value[0] * 1000)),
        ...labels.map((label) => column(label, FieldType.string, results.map(({ metric }) => metric[label] ?? ''))),
        column(named, FieldType.number, results.map(({ value }) => Number(value[1]))),
      ],
    });
  });
}

const OPERATORS = {
  merge: standardTransformers.mergeTransformer,
  organize: standardTransformers.organizeFieldsTransformer,
  sortBy: standardTransformers.sortByTransformer,
};

export function framesOf(panel, answers) {
  const isTable = panel.targets[0].format === 'table';
  let frames = isTable ? tables(panel, answers) : answers.flatMap(({ target, results }) => series(panel, target, results));
  if (!isTable || !frames.length) {
    return frames;
  }
  for (const { id, options } of panel.transformations) {
    const context = { interpolate: (text) => text };
    OPERATORS[id].operator(options, context)(of(frames)).subscribe((done) => (frames = done));
  }
  return frames;
}

function set(config, path, value) {
  const keys = path.split('.');
  const last = keys.pop();
  let place = config;
  for (const key of keys) {
    place = place[key] = { ...place[key] };
  }
  place[last] = value;
}

export function configured(panel, frames, theme) {
  let index = 0;
  // As Grafana does where no greatest value is given: that of all fields together.
  const numbers = frames.flatMap(({ fields }) => fields.filter(({ type }) => type === FieldType.number));
  const greatest = Math.max(...numbers.flatMap(({ values }) => values).filter(Number.isFinite));
  for (const frame of frames) {
    for (const field of frame.fields) {
      const name = field.config.displayName ?? field.config.displayNameFromDS ?? field.name;
      const isNumber = field.type === FieldType.number;
      const own = field.config;
      field.config = isNumber ? { ...structuredClone(panel.fieldConfig.defaults), ...own } : { ...own, custom: structuredClone(panel.fieldConfig.defaults.custom ?? {}) };
      for (const { matcher, properties } of panel.fieldConfig.overrides) {
        const fits = matcher.id === 'byName' ? matcher.options === name : new RegExp(matcher.options).test(name);
        properties.forEach(({ id, value }) => fits && set(field.config, id, value));
      }
      field.config.links = undefined;
      if (isNumber && panel.type === 'bargauge') {
        field.config.max ??= greatest;
      }
      if (isNumber) {
        const finite = field.values.filter(Number.isFinite);
        const [min, max] = panel.type === 'bargauge' ? [0, field.config.max] : [field.config.min ?? Math.min(...finite), field.config.max ?? Math.max(...finite)];
        field.state = { ...field.state, seriesIndex: index++, range: { min, max, delta: max - min } };
      }
      field.display = getDisplayProcessor({ field, theme, timeZone: 'utc' });
    }
  }
  return frames;
}

export const rangeOf = ({ from, to }) => {
  const range = { from: dateTime(from * 1000), to: dateTime(to * 1000) };
  return { ...range, raw: range };
};
