// Three windowed counters a visitor (minute, hour, day) in Kafka Streams, state in RocksDB: the job of bench/peers/job.py.
//
//   java WindowCounts BOOTSTRAP TOPIC COUNT WARM OUT GUARANTEE STATE_DIR APPLICATION_ID
//
// Prints "mark N" after WARM events and "done N" after COUNT; then writes the counters to OUT (TIER, START_S, VISITOR, N by
// tabs) and prints "wrote". What is not set here is Kafka Streams' default: cache, changelog topics, commit interval.

import com.fasterxml.jackson.annotation.JsonIgnoreProperties;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectReader;
import java.io.BufferedWriter;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StoreQueryParameters;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.KGroupedStream;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.state.QueryableStoreTypes;
import org.apache.kafka.streams.state.WindowStore;

public final class WindowCounts {
  @JsonIgnoreProperties(ignoreUnknown = true)
  public static final class Event {
    public String anonymousId;
    public long timestampMs;
  }

  /** Longer than the records of a run reach back. */
  private static final Duration KEPT = Duration.ofHours(1);
  private static final Map<String, Duration> TIERS = new LinkedHashMap<>();

  static {
    TIERS.put("m", Duration.ofMinutes(1));
    TIERS.put("h", Duration.ofHours(1));
    TIERS.put("d", Duration.ofDays(1));
  }

  private static final ObjectReader READER = new ObjectMapper().readerFor(Event.class);

  /** Events through all three windows; one stream thread writes it. */
  private static long seen;

  public static void main(String[] args) throws Exception {
    String topic = args[1];
    long count = Long.parseLong(args[2]);
    long warm = Long.parseLong(args[3]);
    CountDownLatch done = new CountDownLatch(1);

    StreamsBuilder builder = new StreamsBuilder();
    Serde<Event> events = Serdes.serdeFrom((t, event) -> { throw new UnsupportedOperationException(); }, decoder());
    KStream<String, Event> stream = builder.stream(
        topic,
        Consumed.with(Serdes.String(), events)
            .withTimestampExtractor((record, before) -> ((Event) record.value()).timestampMs));
    KGroupedStream<String, Event> byVisitor = stream.groupByKey(Grouped.with(Serdes.String(), events));
    TIERS.forEach((tier, size) -> byVisitor
        .windowedBy(TimeWindows.ofSizeWithNoGrace(size))
        .count(Materialized.<String, Long, WindowStore<Bytes, byte[]>>as(tier)
            .withKeySerde(Serdes.String())
            .withRetention(size.plus(KEPT)))); // What is not kept can't be compared.
    // Added last: a record goes through the nodes above first.
    stream.foreach((visitor, event) -> {
      seen++;
      if (seen == warm) {
        System.out.println("mark " + seen);
      }
      if (seen == count) {
        System.out.println("done " + seen);
        done.countDown();
      }
    });

    KafkaStreams streams = new KafkaStreams(builder.build(), settings(args));
    streams.setUncaughtExceptionHandler(e -> {
      e.printStackTrace();
      Runtime.getRuntime().halt(1);
      return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
    });
    streams.start();
    done.await();
    try (BufferedWriter out = Files.newBufferedWriter(Path.of(args[4]))) {
      TIERS.keySet().forEach(tier -> write(streams, tier, out));
    }
    System.out.println("wrote");
    Runtime.getRuntime().halt(0); // Nothing of it is used again.
  }

  private static Properties settings(String[] args) {
    Properties settings = new Properties();
    settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, args[0]);
    settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, args[5]);
    settings.put(StreamsConfig.STATE_DIR_CONFIG, args[6]);
    settings.put(StreamsConfig.APPLICATION_ID_CONFIG, args[7]);
    return settings;
  }

  private static Deserializer<Event> decoder() {
    return (topic, bytes) -> {
      try {
        return READER.readValue(bytes);
      } catch (IOException e) {
        throw new UncheckedIOException(e);
      }
    };
  }

  private static void write(KafkaStreams streams, String tier, BufferedWriter out) {
    var store = streams.store(StoreQueryParameters.fromNameAndType(tier, QueryableStoreTypes.<String, Long>windowStore()));
    try (var all = store.all()) {
      while (all.hasNext()) {
        var counter = all.next();
        long startS = counter.key.window().start() / 1000;
        out.write(tier + "\t" + startS + "\t" + counter.key.key() + "\t" + counter.value + "\n");
      }
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }
}
