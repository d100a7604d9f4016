// A dashboard on its grid, each panel by Grafana's own component where @grafana/ui has one.
import { useMemo } from 'react';
import { getFieldDisplayValues, getDisplayProcessor, VizOrientation } from '@grafana/data';
import { BarGauge, BigValue, PanelChrome, Table, TimeSeries, VizRepeater } from '@grafana/ui';
import { configured, framesOf, rangeOf } from './frames.js';

const STEPS = { mode: 'absolute', steps: [{ value: -Infinity, color: 'green' }] };
const CELL = 30;
const GAP = 8;

export function Board({ data, theme, width }) {
  const { board, answers, variables, range } = data;
  const flat = board.panels.flatMap((panel) => (panel.collapsed ? [panel] : [panel]));
  const unit = (width - 2 * GAP) / 24;
  const bottom = Math.max(...flat.map(({ gridPos: { y, h } }) => y + h)) * (CELL + GAP) + 70;
  const place = ({ x, y, w, h }) => ({
    position: 'absolute',
    left: GAP + x * unit,
    top: 64 + y * (CELL + GAP),
    width: w * unit - GAP,
    height: h * CELL + (h - 1) * GAP,
  });
  return (
    <div style={{ position: 'relative', width, height: bottom, fontFamily: theme.typography.fontFamily }}>
      <Head board={board} source={data.source} variables={variables} theme={theme} />
      {flat.map((panel) => (
        <div key={panel.id} style={place(panel.gridPos)}>
          {panel.type === 'row' ? (
            <Headline panel={panel} theme={theme} variables={data.titles} />
          ) : (
            <Framed panel={panel} answers={answers[panel.id]} theme={theme} range={range} {...place(panel.gridPos)} />
          )}
        </div>
      ))}
    </div>
  );
}

function Head({ board, source, variables, theme }) {
  const chip = { border: `1px solid ${theme.colors.border.medium}`, borderRadius: 3, padding: '2px 8px', marginRight: 8 };
  return (
    <div style={{ padding: '8px 10px', color: theme.colors.text.primary }}>
      <b style={{ fontSize: 16, marginRight: 16 }}>{board.title}</b>
      <span style={{ color: theme.colors.text.secondary, fontSize: 12 }}>
        drawn with Grafana&apos;s components from {source}
      </span>
      <div style={{ marginTop: 6, fontSize: 12, color: theme.colors.text.secondary }}>
        {Object.entries(variables).map(([name, value]) => (
          <span key={name} style={chip}>
            {name}: <b style={{ color: theme.colors.text.primary }}>{value}</b>
          </span>
        ))}
      </div>
    </div>
  );
}

function Headline({ panel, theme, variables }) {
  const title = panel.title.replace(/\$(\w+)/g, (_, name) => variables[name] ?? name);
  return (
    <div style={{ color: theme.colors.text.primary, fontWeight: 500, fontSize: 15, paddingTop: 4 }}>
      {panel.collapsed ? '› ' : '⌄ '}
      {title}
    </div>
  );
}

function Framed({ panel, answers, theme, range, width, height }) {
  const frames = useMemo(() => configured(panel, framesOf(panel, answers), theme), [panel, answers, theme]);
  return (
    <PanelChrome title={panel.title} description={panel.description} width={width} height={height}>
      {(w, h) =>
        frames.length ? (
          <Drawn panel={panel} frames={frames} theme={theme} range={range} width={w} height={h} />
        ) : (
          <div style={{ color: theme.colors.text.secondary, display: 'grid', placeItems: 'center', width: w, height: h }}>
            {panel.fieldConfig.defaults.noValue}
          </div>
        )
      }
    </PanelChrome>
  );
}

const KINDS = { stat: Stats, timeseries: Lines, bargauge: Bars, table: Rows, barchart: Columns, 'state-timeline': States };

function Drawn(props) {
  const Kind = KINDS[props.panel.type];
  return <Kind {...props} />;
}

const displays = (panel, frames, theme, sparkline) =>
  getFieldDisplayValues({
    fieldConfig: { ...panel.fieldConfig, overrides: [] },
    reduceOptions: panel.options.reduceOptions,
    data: frames,
    theme,
    replaceVariables: (text) => text,
    sparkline,
    timeZone: 'utc',
  });

function Stats({ panel, frames, theme, width, height }) {
  const { options } = panel;
  const values = displays(panel, frames, theme, options.graphMode !== 'none');
  const text = options.textMode === 'auto' && values.length > 1 ? 'value_and_name' : options.textMode;
  return (
    <VizRepeater
      orientation={VizOrientation.Auto}
      source={values}
      getValues={() => values}
      width={width}
      height={height}
      autoGrid
      renderValue={({ value, width: w, height: h }) => (
        <BigValue
          value={value.display}
          sparkline={value.sparkline}
          colorMode={options.colorMode}
          graphMode={options.graphMode}
          justifyMode={options.justifyMode}
          textMode={text}
          wideLayout={options.wideLayout}
          theme={theme}
          width={w}
          height={h}
          count={values.length}
        />
      )}
    />
  );
}

function Lines({ panel, frames, range, width, height }) {
  return (
    <TimeSeries
      frames={frames}
      structureRev={1}
      timeRange={rangeOf(range)}
      timeZone="utc"
      width={width}
      height={height}
      legend={panel.options.legend}
      options={panel.options}
    />
  );
}

function Bars({ panel, frames, theme, width, height }) {
  const values = displays(panel, frames, theme, false);
  return (
    <VizRepeater
      orientation={VizOrientation.Horizontal}
      source={values}
      getValues={() => values}
      width={width}
      height={height}
      itemSpacing={6}
      minVizHeight={panel.options.minVizHeight}
      maxVizHeight={panel.options.maxVizHeight}
      renderValue={({ value, width: w, height: h }) => (
        <BarGauge
          value={value.display}
          field={value.field}
          display={value.view?.getFieldDisplayProcessor(value.colIndex ?? 0) ?? getDisplayProcessor()}
          orientation={VizOrientation.Horizontal}
          displayMode={panel.options.displayMode}
          namePlacement={panel.options.namePlacement}
          alignmentFactors={longest(values)}
          theme={theme}
          width={w}
          height={h}
          showUnfilled
        />
      )}
    />
  );
}

function longest(values) {
  const by = (get) => values.map(({ display }) => get(display)).reduce((a, b) => (a.length >= b.length ? a : b), '');
  return { title: by(({ title }) => title ?? ''), text: by(({ prefix = '', text, suffix = '' }) => prefix + text + suffix) };
}

function Rows({ panel, frames, width, height }) {
  const sort = panel.options.sortBy.map(({ displayName, desc }) => ({ displayName, desc }));
  return <Table data={frames[0]} width={width} height={height} initialSortBy={sort} cellHeight="sm" timeRange={undefined} />;
}

// The bar chart is no part of @grafana/ui: hours become moments, columns are drawn by the time series.
function Columns({ panel, frames, theme, range, width, height }) {
  const [frame] = frames;
  const hours = frame.fields.find(({ name }) => name === panel.options.xField).values.map(Number);
  const value = frame.fields.find(({ type }) => type === 'number');
  const custom = { drawStyle: 'bars', fillOpacity: 70, lineWidth: 0, barWidthFactor: 0.85, axisSoftMin: 0, gradientMode: 'scheme' };
  const fields = [
    { name: 'Time', type: 'time', config: {}, values: hours.map((hour) => (range.to + hour * 3600) * 1000) },
    { ...value, name: 'Forecast', config: { ...value.config, max: Math.max(...value.values), thresholds: STEPS, custom } },
  ];
  const ahead = configuredAgain({ ...frame, fields }, theme);
  const within = { from: range.to, to: range.to + 49 * 3600 };
  return (
    <TimeSeries
      frames={[ahead]}
      structureRev={1}
      timeRange={rangeOf(within)}
      timeZone="utc"
      width={width}
      height={height}
      legend={{ showLegend: false, calcs: [], displayMode: 'list', placement: 'bottom' }}
    />
  );
}

function configuredAgain(frame, theme) {
  frame.fields.forEach((field) => (field.display = getDisplayProcessor({ field, theme, timeZone: 'utc' })));
  return frame;
}

// Nor is the state timeline: bands of colour by hand.
function States({ panel, frames, theme, range, width, height }) {
  const tall = Math.min(26, height / frames.length - 4);
  const left = 170;
  const scale = (width - left - 8) / (range.to - range.from);
  return (
    <svg width={width} height={height}>
      {frames.map((frame, row) => {
        const [time, value] = frame.fields;
        const step = range.step * 1000;
        return (
          <g key={row} transform={`translate(0 ${row * (tall + 4)})`}>
            <text x={4} y={tall / 2 + 4} fill={theme.colors.text.primary} fontSize={12}>
              {value.config.displayNameFromDS}
            </text>
            {time.values.map((at, n) => (
              <rect
                key={n}
                x={left + (at / 1000 - range.from) * scale}
                width={(step / 1000) * scale + 0.5}
                height={tall}
                fill={value.display(value.values[n]).color}
              />
            ))}
          </g>
        );
      })}
    </svg>
  );
}
